"""``python -m itaclip app``: a web page that segments images into any words."""

import argparse
import importlib.util
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Sequence

from ..clip_model import OPENAI_MODELS, cache_folder
from ..errors import InputError
from ..predict.load import DEFAULT_MODEL, Segmenter, load

_SHIPPED = "storybook-tiny"
_EXAMPLES = """examples:
  python -m itaclip app
  python -m itaclip app --model ViT-B/16 --device cuda:0
  python -m itaclip app --config configs/cfg_storybook.py --port 8000

The page works without web access. It needs Gradio, which the extra 'app' installs."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "app",
        help="serves a web page that segments images into any words",
        description="Serves a web page that segments images into any words.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"OpenAI's name, '{_SHIPPED}' or a checkpoint's path; default: {DEFAULT_MODEL} if "
        f"its weights are on this machine, else {_SHIPPED}, which ships with the project",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="take model, settings and classes of a config"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets the whole network in; default: %(default)s",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that the page is reached by, such as a reverse proxy's",
    )
    parser.add_argument("--port", type=int, help="0: any; default: the first free one from 7860")
    parser.add_argument(
        "--device", help="such as 'cpu' or 'cuda:0'; default: a GPU if there is one"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted.

    Raises:
        InputError: Gradio is missing, the model cannot be had, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "app: the page needs Gradio, which is not installed; run `pip install 'itaclip[app]'`."
        )
    port = free_port(args.host, args.port)
    name, remark = choose_model(args.model, args.config)
    if remark:
        print(remark)
    segmenter = load(name, config=args.config, device=args.device, text_cache=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl+C, which tidies up
    # Visitors' files lie in a folder of this server alone, which goes when it ends.
    with tempfile.TemporaryDirectory(prefix="itaclip-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        _serve(segmenter, name or args.config, remark, args.host, port, args.allow_host)


def choose_model(model: str | None, config: str | None) -> tuple[str | None, str]:
    """What is loaded where nothing is asked for, and a sentence that says so.

    Nothing is downloaded unless it is named: without its weights, ViT-B/16 gives way to the tiny
    model that ships with the project.
    """
    if model is not None or config is not None:
        return model, ""
    weights = cache_folder() / OPENAI_MODELS[DEFAULT_MODEL][1]
    if weights.is_file():
        return DEFAULT_MODEL, ""
    return _SHIPPED, (
        f"The weights of {DEFAULT_MODEL} are not on this machine, so this is {_SHIPPED}, which "
        f"knows only drawn scenes; --model {DEFAULT_MODEL} downloads them."
    )


def free_port(host: str, port: int | None) -> int | None:
    """Tries to listen there, since Gradio would wait for ever.

    Returns:
        The port; one that is free for 0; None, which leaves the choice to Gradio, for None.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.create_server((host, port or 0), family=family) as server:
            return None if port is None else server.getsockname()[1]
    except (OSError, OverflowError) as error:
        where = host if port is None else f"{host}:{port}"
        raise InputError(
            f"app: cannot listen at {where} ({error}); choose others with --host and --port."
        ) from None


def _serve(
    segmenter: Segmenter,
    name: str,
    remark: str,
    host: str,
    port: int | None,
    names: Sequence[str],
) -> None:
    from ..app.examples import drawn_examples
    from ..app.page import Page, launch_options
    from ..app.workbench import Workbench

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks its own server if it is up
    direct = filter(None, (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")))
    os.environ["no_proxy"] = ",".join([*direct, "localhost", "127.0.0.1", host])  # so not by proxy
    workbench = Workbench(segmenter)
    about = f"{name}: {workbench.describe()}. {remark}".strip()
    page = Page(workbench, drawn_examples(), about)
    _, url, _ = page.blocks.launch(
        server_port=port, prevent_thread_lock=True, **launch_options(page, host, names)
    )
    print(f"The page is at {url} (Ctrl+C ends it).", flush=True)
    page.blocks.block_thread()
