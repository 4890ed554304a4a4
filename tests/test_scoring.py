"""Scores of variants: what plain loops give, and the same from either strand."""

import math

import numpy as np
import pytest
import torch

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.rows import WindowRule
from dnamamba.errors import InputError
from dnamamba.inference.likelihood import masked_base_log_probabilities
from dnamamba.inference.windows import variant_rule
from dnamamba.models import BiMambaConfig, DnaModel, HyenaConfig, MambaConfig, ModelConfig
from dnamamba.scoring.variants import (
    ScoreOptions,
    VariantScore,
    score_pairs,
    score_rows,
)
from dnamamba.tokenizer import decode, encode, reverse_complement, token_ids
from genomes import (
    MemoryGenome,
    random_sequence,
)
from variant_files import anchored, draw_changes, rows_of, turn_change, turned, vcf_text

CONTIG = random_sequence(3000, seed=4)
GENOME = MemoryGenome({"chr1": CONTIG})
RULE = WindowRule(seq_len=64)
FORWARD = ScoreOptions(rc="none")


def make_model(mixer=None, strands="one"):
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layers=2, mixer=mixer or MambaConfig(), strands=strands)
    model = DnaModel(config).eval()
    # Larger than those of a new model, so that bases differ.
    torch.nn.init.normal_(model.backbone.embedding.weight)
    return model


def draw_rows(n=30):
    changes = [anchored(CONTIG, *change) for change in draw_changes(CONTIG, n)]
    return rows_of(vcf_text("chr1", changes), GENOME, RULE)


def scores_of(model, rows, options=None):
    found = list(score_rows(model, rows, options))
    assert [row.line for row, _ in found] == [row.line for row in rows]
    return np.array([score for _, score in found])


@torch.no_grad()
def naive_log_likelihood(model, codes):
    """(sum, number) of log p of bases after the first, one at a time."""
    ids = torch.from_numpy(token_ids(codes)).long()[None]
    log_probs = model(ids)[0, :, 7:11].double().log_softmax(-1)
    values = [float(log_probs[t - 1, ids[0, t] - 7]) for t in range(1, ids.shape[1])]
    return math.fsum(values), len(values)


@torch.no_grad()
def naive_mean(model, codes):
    ids = torch.from_numpy(token_ids(codes)).long()[None]
    return model.embed(ids)[0].double().mean(0).numpy()


def naive_score(model, ref, alt):
    (one, n_one), (other, n_other) = (naive_log_likelihood(model, codes) for codes in (ref, alt))
    a, b = naive_mean(model, ref), naive_mean(model, alt)
    cosine = 1 - a @ b / math.sqrt((a @ a) * (b @ b))
    ratio = other / n_other - one / n_one
    return [other - one, ratio, one, other, cosine, math.sqrt((a - b) @ (a - b))]


# --- causal models


def test_scores_are_those_of_a_plain_loop():
    model, rows = make_model(), draw_rows()
    found = scores_of(model, rows, FORWARD)
    expected = [naive_score(model, row.codes, row.alternative) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-4)
    assert len({len(row.codes) - len(row.alternative) for row in rows}) > 5, "indels are among them"


def test_both_strands_are_averaged():
    model, rows = make_model(), draw_rows()
    found = scores_of(model, rows)
    one = scores_of(model, rows, FORWARD)
    other = np.array(
        score_pairs(
            model,
            [(reverse_complement(row.codes), reverse_complement(row.alternative)) for row in rows],
            FORWARD,
        )
    )
    np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-4, atol=1e-4)
    assert not np.allclose(one, other, rtol=0.1), "or there is nothing to average"


def check_strand_swap(model, name, sequence, n):
    """Every variant, of the genome and of its reverse complement, as VCF writes them."""
    changes = draw_changes(sequence, n)
    other = turned(sequence)
    both = []
    for text, drawn in (
        (sequence, changes),
        (other, [turn_change(sequence, *change) for change in changes]),
    ):
        written = vcf_text(name, [anchored(text, *change) for change in drawn])
        rows = rows_of(written, MemoryGenome({name: text}), WindowRule(seq_len=128))
        both.append(scores_of(model, rows))
    likelihoods = np.abs(both[0][:, 2])
    difference = np.abs(both[0] - both[1])
    assert (difference[:, :4] <= 1e-5 * likelihoods[:, None]).all()
    np.testing.assert_allclose(both[0][:, 4:], both[1][:, 4:], rtol=1e-3, atol=1e-7)
    assert np.median(np.abs(both[0][:, 0])) > 1e-3 * np.median(likelihoods), "far above that"


def test_the_other_strand_of_everything_has_the_same_scores():
    check_strand_swap(make_model(), "chr1", CONTIG, 200)


def test_a_thousand_variants_of_a_real_megabase_from_either_strand(shared_data):
    genome = open_genome([shared_data / "genomes/human_GRCh37_chr7_86-87Mb.fa.gz"])
    ((name, length),) = genome.contigs.items()
    check_strand_swap(make_model(), name, decode(genome.read(name, 0, length)).upper(), 1000)


def test_an_indel_has_the_same_score_wherever_it_is_written():
    contig = random_sequence(60, seed=2) + "CATATATATG" + random_sequence(60, seed=3)
    written = [(60, "CAT", "C"), (62, "TAT", "T"), (67, "ATG", "G")]
    rows = rows_of(vcf_text("c", written), MemoryGenome({"c": contig}), RULE)
    scores = scores_of(make_model(), rows)
    np.testing.assert_array_equal(scores, scores[[0, 0, 0]])


@pytest.mark.parametrize("batch_tokens", [1, 500, 1 << 20])
@pytest.mark.parametrize("chunk_tokens", [17, 1 << 16])
def test_batches_and_pieces_change_nothing(batch_tokens, chunk_tokens):
    model, rows = make_model(), draw_rows(10)
    options = ScoreOptions(batch_tokens=batch_tokens, chunk_tokens=chunk_tokens)
    found = scores_of(model, rows, options)
    np.testing.assert_allclose(found, scores_of(model, rows), rtol=1e-3, atol=1e-4)


def test_the_same_allele_changes_nothing():
    codes = encode(CONTIG[:64])
    (score,) = score_pairs(make_model(), [(codes, codes)])
    assert (score.llr, score.llr_per_base, score.euclidean_distance) == (0, 0, 0)
    assert score.cosine_distance == 0


def test_alleles_of_one_line_read_the_reference_once():
    ref = CONTIG[1000]
    others = ",".join(base for base in "ACGT" if base != ref)
    rows = rows_of(vcf_text("chr1", [(1000, ref, others)]), GENOME, RULE)
    model, read = make_model(), []
    alone = model.embed

    def counting(token_ids, lengths=None):
        read.append(len(token_ids))
        return alone(token_ids, lengths)

    model.embed = counting
    assert len(scores_of(model, rows)) == 3
    assert sum(read) == 2 * 4, "four windows of each strand, not six"


def test_rows_without_a_window_have_no_score():
    ref = CONTIG[1000]
    other = "A" if ref != "A" else "C"
    text = vcf_text("chr1", [(1000, other, "G"), (1000, ref, f"<DEL>,*,{other}")])
    found = list(score_rows(make_model(), rows_of(text, GENOME, RULE)))
    assert [score is None for _, score in found] == [True, True, True, False]
    assert [row.status for row, _ in found] == ["ref mismatch", "unreadable", "unreadable", "ok"]


# --- models that read both ways


@pytest.mark.parametrize("strands", ["one", "both"])
def test_a_single_base_is_hidden_from_models_that_read_both_ways(strands):
    model = make_model(BiMambaConfig(), strands)
    rows = draw_rows()
    singles = [row for row in rows if len(row.codes) == len(row.alternative)]
    singles = [row for row in singles if (row.codes != row.alternative).sum() == 1]
    found = list(score_rows(model, rows))
    for row, score in found:
        is_single = row.line in {one.line for one in singles}
        assert np.isnan(score.llr) != is_single
        assert ("of single bases alone" in row.note) != is_single
        assert score.euclidean_distance > 0
    forward = scores_of(model, singles, FORWARD)
    places = [row.variant_start for row in singles]
    log_probs = masked_base_log_probabilities(model, [row.codes for row in singles], places)
    for row, at, values, score in zip(singles, places, log_probs, forward, strict=True):
        ref, alt = row.codes[at] - 7, row.alternative[at] - 7
        expected = [values[alt] - values[ref], values[alt] - values[ref], values[ref], values[alt]]
        np.testing.assert_allclose(score[:4], expected, rtol=1e-4, atol=1e-5)
    if strands == "both":
        np.testing.assert_array_equal(forward, scores_of(model, singles))


def test_models_that_read_both_ways_say_the_same_of_the_other_strand():
    rows = [row for row in draw_rows() if len(row.codes) == len(row.alternative)]
    pairs = [(row.codes, row.alternative) for row in rows]
    other = [tuple(map(reverse_complement, pair)) for pair in pairs]
    for strands in ("one", "both"):
        model = make_model(BiMambaConfig(), strands)
        np.testing.assert_allclose(
            np.array(score_pairs(model, pairs)), np.array(score_pairs(model, other)), rtol=1e-4
        )


# --- windows and options


def test_windows_are_as_long_as_those_trained_on(tmp_path, caplog):
    model, hyena = make_model(), make_model(HyenaConfig(l_max=512))
    assert variant_rule(model.config) == WindowRule(seq_len=2048)
    assert variant_rule(model.config, trained=100) == WindowRule(seq_len=100)
    assert variant_rule(model.config, 50, "pad", 100) == WindowRule(seq_len=50, edge="pad")
    assert variant_rule(hyena.config) == WindowRule(seq_len=512)
    with pytest.raises(InputError, match=r"513 bases are .* 512 .*: ask for shorter windows"):
        variant_rule(hyena.config, 513)
    with caplog.at_level("WARNING", "dnamamba"):
        variant_rule(model.config, 200, trained=100)
    assert "windows of 200 bases are longer than any" in caplog.text


def test_wrong_options_are_said():
    with pytest.raises(InputError, match="rc must be one of none, average, got 'concat'"):
        ScoreOptions(rc="concat")


def test_names_of_scores():
    assert VariantScore._fields[:2] == ("llr", "llr_per_base")
