"""Which window is which sample.

Most tests compare with `laid_out_slowly`, which lays windows base by base, as their rules are
written down. The published rule of HyenaDNA is also compared with strings of its own loader.
"""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dnamamba.data import windows as windows_module
from dnamamba.data.ranges import merge
from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig, WindowDataset, build_indexes
from dnamamba.data.windows import (
    CADUCEUS_SEGMENT,
    WindowConfig,
    WindowIndex,
    largest_phases,
    propose,
)
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.bed import read_split_bed
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split
from dnamamba.tokenizer import decode
from genomes import MemoryGenome, random_sequence
from golden_files import golden_path, load_golden_json

RULES = ("tile", "mamba", "hyenadna", "caduceus")
EDGES = ("shift", "pad", "skip")
SEGMENT = 48  # what the caduceus rule extends rows to in these tests; 2^20 in earnest

# --- the slow way


def laid_out_slowly(config, rows, lengths, unreadable, protected, phases=None):
    """Windows as sorted (contig, first base, bases, padding on the left).

    rows: (contig, start, end). unreadable, protected: sets of (contig, position).
    """
    lay = {"tile": _tile, "mamba": _mamba, "hyenadna": _hyenadna, "caduceus": _caduceus}
    proposed = lay[config.rule](config, rows, lengths, protected, phases)
    kept = []
    for contig, start, end in proposed:
        placed = _at_the_edge(config, start, end, lengths[contig])
        if placed is None:
            continue
        first, last, left_pad = placed
        if first == last:  # the contig has no base to pad
            continue
        positions = {(contig, i) for i in range(first, last)}
        if len(positions & unreadable) > config.max_n_fraction * config.seq_len:
            continue
        if not config.drop_overlap or not positions & protected:
            kept.append((contig, first, last - first, left_pad))
    return sorted(kept)


def _tile(config, rows, lengths, protected, phases):
    taken = protected if config.drop_overlap else set()
    allowed = {
        (contig, i) for contig, start, end in rows for i in range(start, min(end, lengths[contig]))
    } - taken
    stretches = []
    for contig, position in sorted(allowed):
        if (contig, position - 1) in allowed:
            stretches[-1][2] += 1
        else:
            stretches.append([contig, position, position + 1])
    for number, (contig, start, end) in enumerate(stretches):
        position = start + (phases[number] if phases is not None else 0)
        while position + config.seq_len <= end:
            yield contig, position, position + config.seq_len
            position += config.seq_len
        if config.edge == "pad" and end - start < config.seq_len:
            yield contig, start, end


def _mamba(config, rows, lengths, protected, phases):
    for contig, start, end in rows:
        if end - start >= config.seq_len:
            for position in range(start, end - config.seq_len + 1, config.seq_len):
                yield contig, position, position + config.seq_len
        else:
            yield contig, start, start + config.seq_len
            yield contig, end - config.seq_len, end


def _hyenadna(config, rows, lengths, protected, phases):
    for contig, start, end in rows:
        missing = config.seq_len - (end - start)
        if missing > 0:
            start -= missing // 2
        yield contig, start, start + config.seq_len


def _caduceus(config, rows, lengths, protected, phases):
    for contig, start, _ in rows:
        for k in range(SEGMENT // config.seq_len):
            yield contig, start + k * config.seq_len, start + (k + 1) * config.seq_len


def _at_the_edge(config, start, end, length):
    """(first base, one past the last, left padding), or None where there is no window."""
    if start >= 0 and end <= length:
        return start, end, 0
    if start >= length or end <= 0 or config.edge == "skip":
        return None
    if config.edge == "pad":
        return max(start, 0), min(end, length), max(0, -start)
    if length < config.seq_len:
        return None
    while start < 0:
        start, end = start + 1, end + 1
    while end > length:
        start, end = start - 1, end - 1
    return start, end, 0


# --- small genomes


@st.composite
def layouts(draw):
    """A config, rows of a BED, contig lengths and two sets of positions."""
    lengths = draw(st.lists(st.integers(0, 90), min_size=1, max_size=3))
    rule = draw(st.sampled_from(RULES))
    config = WindowConfig(
        seq_len=draw(st.integers(2, SEGMENT if rule == "caduceus" else 100)),
        rule=rule,
        edge=draw(st.sampled_from(EDGES)),
        max_n_fraction=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        drop_overlap=draw(st.booleans()),
    )
    stretch = st.tuples(
        st.integers(0, len(lengths) - 1), st.integers(0, 100), st.integers(0, 60)
    ).map(lambda row: (row[0], row[1], row[1] + row[2]))
    rows = draw(st.lists(stretch, max_size=5))
    unreadable = draw(st.lists(stretch, max_size=3))
    protected = draw(st.lists(stretch, max_size=3))
    return config, rows, lengths, unreadable, protected


def index_of(config, rows, lengths, unreadable=(), protected=(), **options) -> WindowIndex:
    return WindowIndex(
        config,
        [Interval(f"chr{contig}", start, end) for contig, start, end in rows],
        {f"chr{i}": length for i, length in enumerate(lengths)},
        by_contig(cut(unreadable, lengths)),
        protected=by_contig(protected),
        **options,
    )


def cut(stretches, lengths):
    return [(i, start, min(end, lengths[i])) for i, start, end in stretches if start < lengths[i]]


def by_contig(stretches):
    contigs = {contig for contig, _, _ in stretches}
    return {i: merge((start, end) for j, start, end in stretches if i == j) for i in contigs}


def positions_of(stretches):
    return {(contig, i) for contig, start, end in stretches for i in range(start, end)}


def windows_of(index, epoch=0):
    """(contig, first base, bases, padding on the left) of each window, in order."""
    picked = index.windows(epoch, np.arange(index.n_windows(epoch)))
    assert (picked.count == 1).all()
    columns = (picked.contig, picked.start, picked.n_bases, picked.left_pad)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def bases_of(windows):
    return [(contig, i) for contig, start, n, _ in windows for i in range(start, start + n)]


# --- every rule, against the slow way


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    """The caduceus rule extends rows to 48 bases here, and rows are looked into a few at a time."""
    monkeypatch.setattr(windows_module, "CADUCEUS_SEGMENT", SEGMENT)
    monkeypatch.setattr(windows_module, "_WINDOWS_AT_ONCE", 5)


@given(layouts())
@example((WindowConfig(seq_len=4), [], [10], [], []))
@example((WindowConfig(seq_len=4, max_n_fraction=0), [(0, 0, 9)], [9], [(0, 0, 9)], []))
@settings(deadline=None, max_examples=200)
def test_windows_are_those_of_the_rule(layout):
    config, rows, lengths, unreadable, protected = layout
    slowly = laid_out_slowly(
        config, rows, lengths, positions_of(cut(unreadable, lengths)), positions_of(protected)
    )
    index = index_of(*layout)
    windows = windows_of(index)
    assert sorted(windows) == slowly
    assert windows == slowly or config.rule != "tile", "tiles come in genome order"
    assert index.n_windows() == len(slowly)


@given(layouts(), st.integers(0, 1 << 40))
@settings(deadline=None, max_examples=60)
def test_training_windows_are_those_of_the_rule_in_another_order(layout, seed):
    assume(layout[0].rule != "tile")
    trained = index_of(*layout, shuffled=True, seed=seed)
    evaluated = sorted(windows_of(index_of(*layout)))
    for epoch in (0, 1, 7):
        assert sorted(windows_of(trained, epoch)) == evaluated


@given(layouts(), st.data())
@settings(deadline=None, max_examples=60)
def test_tiles_move_together_by_the_phase(layout, data):
    config, rows, lengths, _, _ = layout
    assume(config.rule == "tile")
    stretches = [row for row in rows if row[2] <= lengths[row[0]]]
    most = largest_phases(config, stretches)
    phases = np.array([data.draw(st.integers(0, int(n))) for n in most], np.int64)
    proposed = propose(config, stretches, phases)
    found = []
    columns = (column.tolist() for column in proposed.columns())
    for contig, start, count, n, left in zip(*columns, strict=True):
        found += [(contig, start + k * config.seq_len, n, left) for k in range(count)]
    expected = []
    for row, phase in zip(stretches, phases, strict=True):
        expected += [
            (contig, start, end - start, 0)
            for contig, start, end in _tile(config, [row], lengths, set(), [phase])
        ]
    # Without an allowed phase a stretch would lose a window it has room for.
    assert sorted(found) == sorted(expected)
    for (_, start, end), phase in zip(stretches, most.tolist(), strict=True):
        room = end - start - config.seq_len
        assert phase == (min(room, config.seq_len - 1) if room > 0 else 0)


@given(layouts(), st.integers(0, 1 << 40), st.integers(0, 5))
@settings(deadline=None, max_examples=80)
def test_tiles_never_overlap_nor_leave_their_stretches(layout, seed, epoch):
    config, rows, lengths, _, protected = layout
    assume(config.rule == "tile")
    windows = windows_of(index_of(*layout, shuffled=True, seed=seed), epoch)
    covered = bases_of(windows)
    assert len(covered) == len(set(covered)), "no base twice in an epoch"
    allowed = positions_of([(i, a, min(b, lengths[i])) for i, a, b in rows])
    assert set(covered) <= allowed
    if config.drop_overlap:
        assert not set(covered) & positions_of(protected)


@given(layouts())
@settings(deadline=None, max_examples=80)
def test_a_window_has_the_length_that_was_asked_for(layout):
    config, _, lengths, _, _ = layout
    for contig, start, n_bases, left_pad in windows_of(index_of(*layout)):
        assert 0 <= start < start + n_bases <= lengths[contig]
        assert 0 <= left_pad <= config.seq_len - n_bases
        if config.edge != "pad":
            assert n_bases == config.seq_len


def test_windows_past_a_contigs_end_are_not_all_moved_to_one_place():
    """A row that is extended far past the end gives one window there, not one for each cut."""
    for rule in ("caduceus", "mamba"):
        config = WindowConfig(seq_len=8, rule=rule)
        windows = windows_of(index_of(config, [(0, 30, 78)], [50]))
        assert windows == [(0, 30, 8, 0), (0, 38, 8, 0), (0, 42, 8, 0)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("length", "row"), [(0, (0, 0, 0)), (0, (0, 0, 5)), (9, (0, 9, 9))])
def test_no_window_is_padding_alone(rule, length, row):
    config = WindowConfig(seq_len=4, rule=rule, edge="pad")
    for _, _, n_bases, _ in windows_of(index_of(config, [row], [length])):
        assert n_bases > 0
    if length == 0:
        assert windows_of(index_of(config, [row], [length])) == []


# --- tile over epochs


def test_tiles_reach_both_ends_of_a_contig_over_epochs():
    config = WindowConfig(seq_len=16)
    index = index_of(config, [(0, 0, 100)], [100], shuffled=True)
    seen = set()
    for epoch in range(150):
        seen |= set(bases_of(windows_of(index, epoch)))
    assert seen == {(0, i) for i in range(100)}


def test_a_stretch_of_one_window_to_two_moves_as_far_as_it_can():
    config = WindowConfig(seq_len=16)
    index = index_of(config, [(0, 5, 25), (1, 0, 16)], [40, 16], shuffled=True)
    places = {window for epoch in range(100) for window in windows_of(index, epoch)}
    assert places == {(0, start, 16, 0) for start in range(5, 10)} | {(1, 0, 16, 0)}


def test_the_phase_of_each_epoch_is_drawn_uniformly():
    config = WindowConfig(seq_len=8)
    index = index_of(config, [(0, 0, 100)], [100], shuffled=True)
    draws = 1600
    phases = [int(index.table(epoch).start[0]) for epoch in range(draws)]
    counts = np.bincount(phases, minlength=8)
    assert len(counts) == 8
    chi_square = ((counts - draws / 8) ** 2 / (draws / 8)).sum()
    assert chi_square < 7 + 5 * np.sqrt(14)


def test_contigs_have_phases_of_their_own():
    config = WindowConfig(seq_len=64)
    index = index_of(config, [(i, 0, 1000) for i in range(20)], [1000] * 20, shuffled=True)
    assert len(set(index.table().start.tolist())) > 10


def test_evaluation_windows_have_no_phase_and_no_order_of_their_own():
    config = WindowConfig(seq_len=16)
    one, other = (index_of(config, [(0, 0, 100)], [100], seed=seed) for seed in (0, 1))
    expected = [(0, start, 16, 0) for start in range(0, 96, 16)]
    for epoch in (0, 1, 5):
        assert windows_of(one, epoch) == windows_of(other, epoch) == expected


# --- purity


def training_index(seed=3):
    config = WindowConfig(seq_len=10, max_n_fraction=0.2)
    rows, unreadable = [(0, 0, 400), (1, 20, 90)], [(0, 100, 130)]
    return index_of(config, rows, [400, 95], unreadable, shuffled=True, seed=seed)


def test_a_window_is_a_function_of_seed_epoch_and_number():
    expected = {epoch: windows_of(training_index(), epoch) for epoch in range(5)}
    draws = np.random.default_rng(0)
    used = training_index()
    for _ in range(200):
        epoch = int(draws.integers(5))
        i = int(draws.integers(len(expected[epoch])))
        for index in (used, training_index()):
            one = index.windows(epoch, np.array([i]))
            assert (one.contig[0], one.start[0]) == expected[epoch][i][:2]


def test_coins_are_functions_of_seed_epoch_and_number():
    i = np.arange(50)
    expected = training_index().reversed_strand(2, i)
    index = training_index()
    index.reversed_strand(0, i)
    assert (index.reversed_strand(2, i[::-1])[::-1] == expected).all()
    assert (training_index(seed=4).reversed_strand(2, i) != expected).any()
    assert (index.reversed_strand(3, i) != expected).any()


def test_the_coin_for_the_strand_is_fair():
    index, n = training_index(), 20_000
    for epoch in (0, 1):
        heads = int(index.reversed_strand(epoch, np.arange(n)).sum())
        assert abs(heads - n / 2) < 5 * np.sqrt(n / 4)


def test_a_window_does_not_keep_its_strand_over_epochs():
    """The coin must not hang together with the place that the order gives a window."""
    index = index_of(WindowConfig(seq_len=10, rule="mamba"), [(0, 0, 10_000)], [10_000],
                     shuffled=True)  # fmt: skip
    n = index.n_windows()
    by_place = []
    for epoch in (0, 1):
        starts = index.windows(epoch, np.arange(n)).start
        by_place.append(index.reversed_strand(epoch, np.arange(n))[np.argsort(starts)])
    agree = int((by_place[0] == by_place[1]).sum())
    assert abs(agree - n / 2) < 5 * np.sqrt(n / 4)


def test_seeds_and_epochs_give_other_orders():
    orders = [windows_of(training_index(seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    for one, other in itertools.combinations(orders, 2):
        assert one != other


def test_the_order_changes_with_the_epoch_though_the_windows_do_not():
    config = WindowConfig(seq_len=10, rule="mamba")
    index = index_of(config, [(0, 0, 500)], [500], shuffled=True)
    orders = [windows_of(index, epoch) for epoch in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_locate_counts_the_windows_of_every_epoch():
    index, sample = training_index(), 0
    sizes = [index.n_windows(epoch) for epoch in range(30)]
    assert len(set(sizes)) > 1, "the phase decides how many windows fit"
    for epoch, size in enumerate(sizes):
        for i in (0, size - 1):
            assert training_index().locate(sample + i) == (epoch, i)
            assert index.locate(sample + i) == (epoch, i)
        sample += size
    assert index.locate(sizes[0]) == (1, 0), "also backwards"


def test_a_split_without_a_window_cannot_be_located_in():
    index = index_of(WindowConfig(seq_len=50), [(0, 0, 20)], [20])
    assert index.n_windows() == 0
    with pytest.raises(InputError, match="this split has no window"):
        index.locate(0)


# --- N and short contigs, by example


def test_windows_over_the_n_limit_are_skipped():
    unreadable = [(0, 10, 15), (0, 20, 26), (0, 30, 40)]
    kept = {}
    for limit in (0.0, 0.5, 0.6, 1.0):
        config = WindowConfig(seq_len=10, max_n_fraction=limit)
        windows = windows_of(index_of(config, [(0, 0, 50)], [50], unreadable))
        kept[limit] = [start for _, start, _, _ in windows]
    assert kept == {0.0: [0, 40], 0.5: [0, 10, 40], 0.6: [0, 10, 20, 40], 1.0: [0, 10, 20, 30, 40]}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edge", EDGES)
def test_contigs_shorter_than_a_window_are_padded_or_skipped(rule, edge):
    config = WindowConfig(seq_len=20, rule=rule, edge=edge)
    windows = windows_of(index_of(config, [(0, 0, 9)], [9]))
    if edge != "pad":
        assert windows == []
    elif rule == "mamba":
        assert windows == [(0, 0, 9, 0), (0, 0, 9, 11)], "one begins with the row, one ends with it"
    else:
        assert windows == [(0, 0, 9, 5 if rule == "hyenadna" else 0)]


def test_rows_become_windows_as_the_paper_says():
    """Mamba, appendix E.3: cut segments, or extend each to either side."""
    rows, lengths = [(0, 100, 132)], [1000]
    cut_up = windows_of(index_of(WindowConfig(seq_len=8, rule="mamba"), rows, lengths))
    assert [start for _, start, _, _ in cut_up] == [100, 108, 116, 124]
    extended = windows_of(index_of(WindowConfig(seq_len=64, rule="mamba"), rows, lengths))
    assert [start for _, start, _, _ in extended] == [132 - 64, 100]


# --- splits


@st.composite
def genomes_and_splits(draw):
    """Contig lengths, and a BED, contigs or fractions to divide them by."""
    lengths = draw(st.lists(st.integers(1, 150), min_size=1, max_size=4))
    contigs = [f"chr{i}" for i in range(len(lengths))]
    kind = draw(st.sampled_from(["bed", "contigs", "fractions"]))
    if kind == "contigs":
        names = st.lists(st.sampled_from(contigs), max_size=2, unique=True).map(tuple)
        splits = SplitConfig(valid_contigs=draw(names), test_contigs=draw(names))
    else:
        share = st.sampled_from([0.0, 0.01, 0.1, 0.25])
        splits = SplitConfig(valid_fraction=draw(share), test_fraction=draw(share))
    row = st.tuples(
        st.sampled_from(contigs),
        st.integers(0, 150),
        st.integers(0, 60),
        st.sampled_from(list(Split)),
    )
    rows = draw(st.lists(row, min_size=1, max_size=8)) if kind == "bed" else None
    return dict(zip(contigs, lengths, strict=True)), splits, rows


def indexes_of(lengths, splits, rows, config):
    """The indexes of a genome whose contigs all end in a few N."""
    genome = MemoryGenome(
        {name: random_sequence(size, size)[: size - 3] + "N" * min(3, size)
         for name, size in lengths.items()}
    )  # fmt: skip
    data = DataConfig(windows=config, splits=splits if rows is None else SplitConfig(bed="x"))
    bed = {split: [] for split in Split}
    for chrom, start, length, split in rows or ():
        bed[split].append(Interval(chrom, start, start + length))
    with (
        mock.patch("dnamamba.data.splits.read_split_bed", return_value=bed),
        mock.patch("dnamamba.data.window_dataset._require_windows"),
    ):
        return build_indexes(genome, data)


@given(genomes_and_splits(), st.sampled_from(RULES), st.sampled_from(EDGES), st.integers(2, 60))
@settings(deadline=None, max_examples=200)
def test_no_base_is_in_two_splits(genome, rule, edge, seq_len):
    """D1: with any rule, edge policy, way to divide and length of window."""
    lengths, splits, rows = genome
    assume(rule == "tile" or rows is not None)
    assume(rule != "caduceus" or seq_len <= SEGMENT)
    config = WindowConfig(seq_len=seq_len, rule=rule, edge=edge)
    try:
        indexes = indexes_of(lengths, splits, rows, config)
    except InputError:  # one contig held out twice, or all of them
        return
    held_out = {}
    for split in (Split.VALID, Split.TEST):
        held_out[split] = set(bases_of(windows_of(indexes[split])))
    assert not held_out[Split.VALID] & held_out[Split.TEST]
    for epoch in range(3):
        trained = set(bases_of(windows_of(indexes[Split.TRAIN], epoch)))
        assert not trained & (held_out[Split.VALID] | held_out[Split.TEST])


@pytest.mark.parametrize("rule", ["mamba", "hyenadna", "caduceus"])
def test_the_published_rules_share_bases_unless_overlap_is_dropped(rule):
    """Rows that are neighbours, extended to windows twice as long."""
    rows = [
        ("chr0", 100, 20, Split.TRAIN),
        ("chr0", 120, 20, Split.VALID),
        ("chr0", 300, 20, Split.TRAIN),
        ("chr0", 400, 20, Split.TEST),
    ]
    shared = {}
    for drop_overlap in (False, True):
        config = WindowConfig(seq_len=40, rule=rule, drop_overlap=drop_overlap)
        indexes = indexes_of({"chr0": 1000}, SplitConfig(), rows, config)
        trained, evaluated = (
            set(bases_of(windows_of(indexes[split]))) for split in (Split.TRAIN, Split.VALID)
        )
        assert trained, "there is something to train on either way"
        assert evaluated
        shared[drop_overlap] = len(trained & evaluated)
    assert shared[True] == 0
    assert shared[False] > 0


def test_the_published_akita_splits_keep_apart_when_windows_are_twice_as_long(shared_data):
    """Windows of 2^21 bases, on a genome as long as hg38 of which no base is ever read."""
    sizes = (shared_data / "beds" / "hg38.chrom.sizes").read_text().split()
    genome = mock.Mock(contigs=dict(zip(sizes[::2], map(int, sizes[1::2]), strict=True)))
    genome.n_runs.return_value = np.empty((0, 2), np.int64)
    genome.statistics.return_value = []
    bed = str(shared_data / "beds" / "akita_sequences_hg38.bed.gz")
    shared = {}
    for drop_overlap in (False, True):
        config = WindowConfig(seq_len=1 << 21, rule="hyenadna", drop_overlap=drop_overlap)
        indexes = build_indexes(genome, DataConfig(windows=config, splits=SplitConfig(bed=bed)))
        footprints = [
            {contig: merge(spans) for contig, spans in _spans(indexes[split]).items()}
            for split in (Split.TRAIN, Split.VALID)
        ]
        shared[drop_overlap] = sum(
            _shared(runs, footprints[1][contig])
            for contig, runs in footprints[0].items()
            if contig in footprints[1]
        )
    assert shared[True] == 0
    assert shared[False] > 10_000_000


def _spans(index):
    spans = {}
    for contig, start, n_bases, _ in windows_of(index):
        spans.setdefault(contig, []).append((start, start + n_bases))
    return spans


def _shared(one, other):
    return sum(
        max(0, min(a_end, b_end) - max(a, b))
        for (a, a_end), (b, b_end) in itertools.product(one.tolist(), other.tolist())
    )


# --- HyenaDNA's loader


def golden_genome():
    text = golden_path("loader_hg38_a.fa").read_text().split(">")[1:]
    records = {part.split("\n", 1)[0]: part.split("\n", 1)[1].replace("\n", "") for part in text}
    return MemoryGenome(records)


def official_strings():
    """Its windows with every base it should have: (chrom, start, end, seq_len, letters)."""
    golden = load_golden_json("loader_hg38_a")
    lengths = golden["chromosome_lengths"]
    for item in golden["fasta_interval"]:
        start, end, size = item["start"], item["end"], item["max_length"]
        if end - start > size and end > lengths[item["chr"]]:
            continue  # it counts padding though none is missing: the string is too long
        yield item["chr"], start, end, size, item["padded"]


def test_the_hyenadna_rule_takes_the_bases_that_its_loader_takes():
    genome = golden_genome()
    compared = 0
    for chrom, start, end, size, letters in official_strings():
        config = WindowConfig(
            seq_len=size, rule="hyenadna", edge="pad", max_n_fraction=1, drop_overlap=False
        )
        index = WindowIndex(config, [Interval(chrom, start, end)], genome.contigs, {})
        if not index.n_windows():
            assert set(letters) <= {"."}, "only a window without any base is dropped"
            continue
        (codes,) = WindowDataset(genome, index).read([0])
        expected = "".join("N" if letter in "RYM" else letter for letter in letters)
        assert decode(codes) == expected.replace(".", "-")
        compared += 1
    assert compared > 70


def test_the_items_of_hyenadnas_dataset_are_our_windows():
    """Its token ids, for rows that lie inside their contig; it drops case and the last base."""
    golden = load_golden_json("loader_hg38_a")
    genome = golden_genome()
    rows = read_split_bed(golden_path("loader_hg38_a.bed"))
    compared = 0
    for run in golden["dataset"]:
        if run["add_eos"] or "pad_interval" in run or "replace_N_token" in run:
            continue
        for row, item in zip(rows[Split(run["split"])], run["items"], strict=True):
            config = WindowConfig(
                seq_len=run["max_length"], rule="hyenadna", edge="skip", max_n_fraction=1
            )
            index = WindowIndex(config, [row], genome.contigs, {})
            if not index.n_windows():
                continue
            codes = WindowDataset(genome, index).read([0])[0]
            theirs = np.array([*item["data"], item["target"][-1]])
            known = theirs != 6  # lower case and IUPAC letters are unknown to it
            assert (codes[known] == theirs[known]).all()
            compared += 1
    assert compared > 40


def test_the_golden_genome_is_read_the_same_from_its_file(tmp_path):
    path = tmp_path / "x.fa"
    path.write_bytes(golden_path("loader_hg38_a.fa").read_bytes())
    genome, expected = open_genome([path]), golden_genome()
    assert genome.contigs == expected.contigs
    for name, length in genome.contigs.items():
        assert (genome.read(name, 0, length) == expected.read(name, 0, length)).all()


# --- settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq_len": 1}, "seq_len must be >= 2 bases, got 1"),
        ({"rule": "enformer"}, "window rule must be one of .*, got 'enformer'"),
        ({"edge": "wrap"}, "edge must be one of .*, got 'wrap'"),
        ({"max_n_fraction": 1.1}, "max_n_fraction must be from 0 to 1, got 1.1"),
        ({"max_n_fraction": float("nan")}, "max_n_fraction must be from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(InputError, match=message):
        WindowConfig(**{"seq_len": 10} | values)


def test_the_caduceus_rule_has_a_longest_window(monkeypatch):
    monkeypatch.undo()
    assert windows_module.CADUCEUS_SEGMENT == CADUCEUS_SEGMENT == 1 << 20
    WindowConfig(seq_len=1 << 20, rule="caduceus")
    with pytest.raises(InputError, match=r"seq_len must be <= 2\^20 for caduceus, got 1048577"):
        WindowConfig(seq_len=(1 << 20) + 1, rule="caduceus")
