"""Fragments of prompts that nodes expand into."""

from comfy_compat.graphs import GraphBuilder, add_graph_prefix, is_link


def test_ids_name_the_parent_the_call_the_graph_and_the_node():
    GraphBuilder.set_default_prefix("7", 2)
    first, second = GraphBuilder(), GraphBuilder()
    assert first.node("A").id == "7.2.0.1"
    assert first.node("B").id == "7.2.0.2"
    assert second.node("A").id == "7.2.1.1"


def test_a_fragment_is_an_api_format_prompt():
    graph = GraphBuilder(prefix="p.")
    source = graph.node("Load", "x", name="a.png")
    shown = graph.node("Show", image=source.out(1))
    shown.set_override_display_id("9")
    assert graph.finalize() == {
        "p.x": {"class_type": "Load", "inputs": {"name": "a.png"}},
        "p.1": {"class_type": "Show", "inputs": {"image": ["p.x", 1]}, "override_display_id": "9"},
    }


def test_the_uses_of_an_output_can_be_given_another_value_or_none():
    graph = GraphBuilder(prefix="")
    graph.node("Load", "x")
    use = graph.node("Show", "y", image=["x", 0], mask=["x", 1])
    graph.replace_node_output("x", 0, ["z", 3])
    graph.replace_node_output("x", 1, None)
    assert use.inputs == {"image": ["z", 3]}


def test_a_node_of_a_known_id_is_found_not_made_anew():
    graph = GraphBuilder(prefix="")
    assert graph.node("A", "x") is graph.node("A", "x") is graph.lookup_node("x")


def test_links_are_lists_of_an_id_and_a_slot():
    assert is_link(["1", 0])
    assert not any(map(is_link, (("1", 0), ["1"], [1, 0], ["1", "0"], "10")))


def test_a_prefix_is_put_before_ids_and_links():
    graph = {"a": {"class_type": "A", "inputs": {"x": ["b", 0], "n": 1}}, "b": {"class_type": "B"}}
    moved, outputs = add_graph_prefix(graph, (["a", 0], 5), "p.")
    assert moved == {
        "p.a": {"class_type": "A", "inputs": {"x": ["p.b", 0], "n": 1}},
        "p.b": {"class_type": "B", "inputs": {}},
    }
    assert outputs == (["p.a", 0], 5)
