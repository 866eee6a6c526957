"""Replays a Mooncake-format trace with NVIDIA Dynamo's offline replay (ai-dynamo 1.6.1).

usage: dynamo_replay.py TRACE kv_router|round_robin

The fleet is that of benches/peer-conversation-8w.toml.
"""

import sys

from dynamo.replay.api import run_trace_replay

ENGINE = {
    "backend": "vllm",
    "block_size": 64,
    "num_gpu_blocks": 16_384,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8_192,
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "timing_model": {"type": "fixed", "prefill_ms": 20.0, "decode_ms": 10.0},
}


def main() -> None:
    trace, router = sys.argv[1:]
    report = run_trace_replay(
        trace,
        extra_engine_args={"engine": ENGINE},
        num_workers=8,
        router_mode=router,
        trace_format="mooncake",
        trace_block_size=512,
    )
    summary = report.summary
    for key in ("completed_requests", "mean_ttft_ms", "mean_e2e_latency_ms", "prefix_cache_reused_ratio"):
        print(key, summary.get(key))


if __name__ == "__main__":
    main()
