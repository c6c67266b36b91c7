"""ComfyUI's `comfy_api.feature_flags`: what client and server can do."""

from comfy.cli_args import args

SERVER_FEATURE_FLAGS = {
    "supports_preview_metadata": True,
    "max_upload_size": args.max_upload_size * 1024 * 1024,
}


def get_connection_feature(sockets_metadata, sid, feature_name, default=False):
    """What the client of `sid` said of a feature."""
    return sockets_metadata.get(sid, {}).get("feature_flags", {}).get(feature_name, default)


def supports_feature(sockets_metadata, sid, feature_name):
    return get_connection_feature(sockets_metadata, sid, feature_name) is True


def get_server_features():
    return dict(SERVER_FEATURE_FLAGS)
