"""ComfyUI's `comfy_execution.validation`: whether an output suits an input."""


def validate_node_input(received_type, input_type, strict=False):
    """Equal, or unions: sharing a member; strict: the output's all among the input's."""
    differ = received_type != input_type  # what wildcard types override
    if received_type == "*" or input_type == "*" or not differ:
        return True
    if not isinstance(received_type, str) or not isinstance(input_type, str):
        return False
    got, wants = ({t.strip() for t in types.split(",")} for types in (received_type, input_type))
    return got <= wants if strict else bool(got & wants)
