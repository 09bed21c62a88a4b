"""The operators for few rows against float64, and what they refuse."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from turnout.kernels import operators
from turnout.kernels.operators import FEW_ROWS

DTYPES = sorted(FEW_ROWS.dtypes, key=str)
# Around tiles of 14 rows and 32 columns, blocks of 224 rows, 256 columns and 512 words.
ROWS = st.sampled_from([0, 1, 2, 13, 14, 15, 16, 29, 64, 65, 225])
INNER = st.sampled_from([1, 2, 3, 17, 33, 64, 257, 511, 513, 1025, 2049])
COLUMNS = st.sampled_from([1, 3, 31, 32, 33, 64, 200, 257, 513])


@pytest.fixture(scope="module", autouse=True)
def loaded():
    FEW_ROWS.load()


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found, exact, terms):
    """Terms are of variance 1; sums in float32, then rounded to what they are stored in."""
    bound = 8e-6 * max(terms, 1) ** 0.5 + torch.finfo(found.dtype).eps * exact.abs()
    assert found.shape == exact.shape and ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=40)
@given(ROWS, INNER, COLUMNS)
@example(16, 2049, 33)
def test_a_packed_matrix(dtype, rows, inner, columns):
    x, weight = drawn(rows, inner, dtype=dtype), drawn(columns, inner, dtype=dtype, seed=1)
    packed = FEW_ROWS.pack(weight)
    assert packed.shape[0] == columns and packed.dtype == dtype
    close(operators.packed_linear(x, packed), x.double() @ weight.double().t(), inner)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=5), INNER, COLUMNS)
@example([0, 13, 0, 28], 257, 47)
@example([0, 0], 3, 33)
def test_a_packed_stack(dtype, counts, inner, columns):
    total = sum(counts)
    x = drawn(total + 3, inner, dtype=dtype)
    x[total:] = torch.nan  # rows past the last offset
    stack = drawn(len(counts), columns, inner, dtype=dtype, seed=1)
    offsets = torch.tensor(counts).cumsum(0).to(torch.int32)
    found = operators.panel_product(x, FEW_ROWS.pack(stack), offsets)
    exact = torch.zeros(total + 3, columns, dtype=torch.float64)
    for expert, end in enumerate(offsets.tolist()):
        part = slice(end - counts[expert], end)
        exact[part] = x[part].double() @ stack[expert].double().t()
    close(found, exact, inner)
    assert not found[total:].any()


def test_rows_of_any_form():
    """Of strides, and of more dimensions than two."""
    weight = drawn(40, 24)
    packed, x = FEW_ROWS.pack(weight), drawn(24, 3, 2).permute(2, 1, 0)
    assert not x.is_contiguous()
    close(operators.packed_linear(x, packed), x.double() @ weight.double().t(), 24)
    turned = drawn(24, 40).t()
    close(operators.packed_linear(x, FEW_ROWS.pack(turned)), x.double() @ turned.double().t(), 24)


def test_threads_change_no_bit():
    x, stack = drawn(90, 600), FEW_ROWS.pack(drawn(3, 300, 600, seed=1))
    offsets = torch.tensor([40, 41, 90], dtype=torch.int32)
    query, keys = drawn(3, 4, 1, 16), drawn(3, 2, 50, 16, seed=2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            mixed = operators.one_query(query, keys, keys, None, None, 0.3)
            found.append((operators.panel_product(x, stack, offsets), mixed))
    finally:
        torch.set_num_threads(before)
    for each in found[1:]:
        assert all(map(torch.equal, each, found[0]))


def test_what_would_read_beyond_is_refused():
    """A copy has the shape without what lies behind it."""
    packed, x = FEW_ROWS.pack(drawn(33, 8)), drawn(2, 8)
    with pytest.raises(RuntimeError, match="a copy of packed weights"):
        operators.packed_linear(x, packed.clone())
    with pytest.raises(RuntimeError, match="rows of another width"):
        operators.packed_linear(drawn(2, 9), packed)
    with pytest.raises(RuntimeError, match="rows of another dtype"):
        operators.packed_linear(x.bfloat16(), packed)
    with pytest.raises(RuntimeError, match="offsets of other experts"):
        offsets = torch.tensor([1, 2], dtype=torch.int32)
        operators.panel_product(x, FEW_ROWS.pack(drawn(3, 33, 8)), offsets)
    with pytest.raises(RuntimeError, match="no kernel here"):
        FEW_ROWS.pack(drawn(33, 8).double())


def attended(queries, keys, values, bias, allowed, scale):
    """In float64, one product at a time."""
    shared = queries.shape[1] // keys.shape[1]
    k, v = (each.double().repeat_interleave(shared, 1) for each in (keys, values))
    logits = scale * queries.double() @ k.transpose(2, 3)
    if bias is not None:
        logits = logits + bias.double()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60)
@given(
    st.sampled_from([(1, 1), (3, 1), (4, 4), (6, 2)]),
    st.sampled_from([1, 2, 15, 16, 17, 130]),
    st.sampled_from([(1, 1), (16, 16), (24, 40), (64, 64), (80, 130)]),
    st.sampled_from(["none", "shared", "of a row", "no heads"]),
    st.sampled_from(["none", "of a row", "of a head"]),
)
def test_attention_of_one_query(dtype, heads, length, widths, bias, allowed):
    (query_heads, key_heads), (width, value_width), batch = heads, widths, 2
    queries = drawn(batch, query_heads, 1, width, dtype=dtype)
    room = drawn(batch, key_heads, length + 5, width, dtype=dtype, seed=1)
    keys = room[:, :, :length]  # as of a cache that is not full
    values = drawn(batch, length, key_heads, value_width, dtype=dtype, seed=2).transpose(1, 2)
    added = {
        "none": None,
        "shared": drawn(1, query_heads, 1, length, seed=3),
        "of a row": drawn(batch, query_heads, 1, length, seed=3),
        "no heads": drawn(batch, 1, 1, length, seed=3),
    }[bias]
    may = {
        "none": None,
        "of a row": drawn(batch, 1, 1, length, seed=4) > 0,
        "of a head": drawn(batch, query_heads, 1, length, seed=4) > 0,
    }[allowed]
    if may is not None:
        may[..., 0] = True
    scale = width**-0.5
    found = operators.one_query(queries, keys, values, added, may, scale)
    exact = attended(queries, keys, values, added, may, scale)
    rounding = torch.finfo(dtype).eps * exact.abs()
    assert ((found.double() - exact).abs() <= 2e-6 + rounding).all()


def test_logits_far_apart_and_infinite():
    """exp is accurate to float32 over its whole range; minus infinity gives exactly nothing."""
    logits = torch.tensor([0.0, -1e-8, -0.5, -20.0, -87.0, -100.0, -1e30, -torch.inf])
    queries, keys = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 8, 1)
    values = torch.eye(8)[None, None]
    found = operators.one_query(queries, keys, values, logits[None, None, None], None, 1.0)
    exact = logits.double().softmax(0)
    torch.testing.assert_close(found[0, 0, 0].double(), exact, rtol=3e-7, atol=1e-38)
    assert found[0, 0, 0, -1] == 0


@pytest.mark.parametrize("keys", [1, 3, 20])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_is_not_hidden(bad, keys):
    queries, values = torch.ones(1, 1, 1, 4), torch.ones(1, 1, keys, 4)
    spoilt = torch.ones(1, 1, keys, 4)
    spoilt[0, 0, -1, 0] = bad
    assert operators.one_query(queries, spoilt, values, None, None, 1.0).isnan().all()
    may = torch.ones(1, 1, 1, keys + 1, dtype=torch.bool)
    may[..., -2] = False  # what may not be read does no harm
    longer = (torch.cat((each, torch.ones(1, 1, 1, 4)), 2) for each in (spoilt, values))
    assert (operators.one_query(queries, *longer, None, may, 1.0) == 1).all()


def test_what_does_not_fit_is_refused():
    queries, keys = drawn(2, 4, 1, 8), drawn(2, 2, 5, 8)
    for wrong in (drawn(1, 2, 5, 8), drawn(2, 3, 5, 8), drawn(2, 2, 5, 9)):
        with pytest.raises(RuntimeError, match="do not fit"):
            operators.one_query(queries, wrong, keys, None, None, 1.0)
    with pytest.raises(RuntimeError, match="a mask of other keys"):
        operators.one_query(queries, keys, keys, drawn(1, 1, 1, 4), None, 1.0)


def test_where_nothing_may_be_read_all_are_read_alike():
    values = drawn(1, 1, 5, 3)
    none = torch.zeros(1, 1, 1, 5, dtype=torch.bool)
    queries, keys = drawn(1, 1, 1, 4), drawn(1, 1, 5, 4)
    found = operators.one_query(queries, keys, values, None, none, 1.0)
    torch.testing.assert_close(found, values.mean(2, keepdim=True))
