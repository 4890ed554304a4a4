def write_label_report(folder):
    (folder / "report.html").write_text("x")
    return folder
