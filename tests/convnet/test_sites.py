from convnet.networks import EXAMPLE, made
from secateur.convnet.sites import channel_layers, channel_sites
from secateur.convnet.trace import trace


def sites_of(kind):
    model = made(kind)
    traced = trace(model, EXAMPLE)
    layers = channel_layers(model, traced)
    return layers, {site.name: site for site, _ in channel_sites(layers, traced)}


def test_a_residual_stream_takes_rows_of_all_that_add_to_it():
    layers, sites = sites_of("Residual")
    stream = sites["stem.0"]
    assert set(stream.rows) == {"stem.0", "stem.1", "second.0", "second.1"}
    assert set(stream.columns) == {"first.0", "head"} and stream.columns["first.0"].shape == (8, 9)
    assert stream.weights == 27 + 1 + 54 + 1 + 54 + 5 and next(iter(layers)) == "stem.0"


def test_groups_are_cut_whole_where_that_gives_more_units():
    _, sites = sites_of("Grouped")
    assert sites["c"].count == 8 and sites["c"].rows["d"].tolist()[1] == [4, 5, 6, 7] and "d" not in sites["c"].columns
    assert (
        sites["a"].count == 6 and sites["a"].rows["a"].tolist()[1] == [1, 7] and sites["a"].columns["b"].shape == (6, 9)
    )


def test_parts_of_one_layer_have_names_of_their_own():
    _, sites = sites_of("Listed")
    assert [sites[name].rows["stem"].flatten().tolist() for name in ("stem", "stem/2", "stem/3")] == [
        [0, 1],
        [2, 3, 4],
        [5, 6, 7, 8],
    ]


def test_a_flattened_picture_is_read_in_runs():
    _, sites = sites_of("Concatenated")
    assert sites["a"].columns["head"].tolist()[0] == [12, 13, 14, 15]
