"""``entrypoints/openai/api_server.py``: main, and the options that ``cli_args.py`` and
``engine/arg_utils.py`` of each generation take; unknown ones are refused.

The port is bound before the engine starts (``setup_server``), and uvicorn says when it is ready.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import neuron_double

from vllm.loading import load_model
from vllm.versions import generation

COMMON = {
    "model": str, "tensor-parallel-size": int, "max-num-seqs": int, "max-model-len": int,
    "dtype": str, "host": str, "port": int, "block-size": int, "num-gpu-blocks-override": int,
    "max-loras": int, "max-lora-rank": int, "ssl-certfile": str, "ssl-keyfile": str,
    "ssl-ca-certs": str, "ssl-cert-reqs": int,
}  # fmt: skip
OWN = {
    "fork": {
        "device": str, "override-neuron-config": json.loads, "speculative-model": str,
        "num-speculative-tokens": int, "speculative-max-model-len": int,
    },
    "main": {
        "device": str, "override-neuron-config": json.loads, "speculative-config": json.loads,
        "additional-config": json.loads,
    },
    "plugin": {"additional-config": json.loads, "speculative-config": json.loads},
    "native": {
        "additional-config": json.loads, "speculative-config": json.loads,
        "max-num-batched-tokens": int, "kv-cache-dtype": str, "gpu-memory-utilization": float,
    },
}  # fmt: skip


def parse(argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, kind in {**COMMON, **OWN[generation()]}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--lora-modules", nargs="+")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    return parser.parse_args(argv)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self._answer(200, None)
        elif self.path == "/v1/models":
            names = self.server.options["served_model_name"]
            self._answer(200, {"data": [{"id": name} for name in names]})
        else:
            self._answer(404, None)

    def do_POST(self):
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._answer(401, {"error": "Unauthorized"})
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sampling = self.server.engine.config.neuron_config.on_device_sampling_config
        # get_nxd_sampling_params, neuronx_distributed_model_runner.py:94
        top_k = sampling.global_topk if sampling else None
        text = f"{len(body['prompt'])} characters, top {top_k}"
        self._answer(200, {"object": "text_completion", "choices": [{"text": text}]})

    def _answer(self, status, body):
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main(argv):
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(asctime)s [%(name)s] %(message)s"
    )
    options = vars(parse(argv))
    server = ThreadingHTTPServer((options["host"] or "", options["port"] or 8000), Handler)
    mark = neuron_double.knob("vllm_child")
    if mark:
        subprocess.Popen([sys.executable, "-c", neuron_double.SLEEP, mark])
    if neuron_double.knob("vllm_deaf") is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if neuron_double.knob("vllm_hang") is not None:
        time.sleep(600)
    server.options, server.engine = options, load_model(options)
    if neuron_double.knob("vllm_touch"):
        with open(neuron_double.knob("vllm_touch"), "ab") as file:
            file.write(b"!")
    print("INFO:     Started server process", file=sys.stderr)
    print("INFO:     Application startup complete.", file=sys.stderr, flush=True)
    if neuron_double.knob("vllm_die") is not None:
        raise MemoryError("out of memory")
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
