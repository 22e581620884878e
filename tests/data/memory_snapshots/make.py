#!/usr/bin/env python3
"""Makes the snapshots beside it, in the shapes that PyTorch writes, and expected.json: what an allocator that saw everything knows of them.

    python3 make.py            all but profile.pickle
    python3 make.py --profile  profile.pickle, too: torch's own _profile_to_snapshot of a step on CPU (needs torch)
"""
import json
import pickle
import random
import re
import struct
import sys

MIB = 1 << 20


class Allocator:
    """First fit in segments; keeps the whole history, of which a ring buffer shows the end."""

    def __init__(self, device, rng, frames, expandable):
        self.device, self.rng, self.frames, self.expandable = device, rng, frames, expandable
        self.segments, self.trace, self.live, self.next_address = [], [], {}, 0x7F0000000000 + (device << 36)
        self.pending, self.time_us, self.history = [], 1_760_000_000_000_000, []

    def stack(self):
        start = self.rng.randrange(len(self.frames) - 5)
        return list(self.frames[start:start + self.rng.randrange(1, 6)])

    def record(self, action, address, size, stream=0, frames=None):
        self.time_us += self.rng.randrange(1, 40)
        entry = {"action": action, "device_free" if action == "oom" else "addr": address, "size": size, "stream": stream, "time_us": self.time_us}
        entry["frames"] = self.stack() if frames is None else frames
        entry.update({"compile_context": "N/A", "user_metadata": ""})
        self.trace.append(entry)
        self.history.append((sum(size for size, _, _ in self.live.values()), dict(self.live)))

    def new_segment(self, size):
        total = max(2 * MIB, -(-size // (2 * MIB)) * 2 * MIB)
        segment = {"address": self.next_address, "total": total, "blocks": [[self.next_address, total, None]], "frames": self.stack()}
        self.next_address += total + 2 * MIB
        self.segments.append(segment)
        self.record("segment_map" if self.expandable else "segment_alloc", segment["address"], total, frames=segment["frames"])
        return segment

    def alloc(self, requested):
        size = -(-requested // 512) * 512
        fits = [(s, b) for s in self.segments for b in s["blocks"] if b[2] is None and b[1] >= size]
        segment, block = fits[0] if fits else (lambda s: (s, s["blocks"][0]))(self.new_segment(size))
        at = segment["blocks"].index(block)
        rest = [[block[0] + size, block[1] - size, None]] if block[1] > size else []
        segment["blocks"][at:at + 1] = [[block[0], size, requested]] + rest
        stack = self.stack()
        self.live[block[0]] = (requested, "active_allocated", stack)
        self.record("alloc", block[0], requested, frames=stack)

    def free(self, address):
        requested, _, stack = self.live[address]
        self.live[address] = (requested, "active_pending_free", stack)
        self.record("free_requested", address, requested)
        if self.rng.random() < 0.15:
            self.pending.append(address)
        else:
            self.complete(address)

    def complete(self, address):
        requested = self.live.pop(address)[0]
        for segment in self.segments:
            for block in segment["blocks"]:
                if block[0] == address:
                    block[2] = None
            merged = []
            for block in segment["blocks"]:
                if merged and merged[-1][2] is None and block[2] is None:
                    merged[-1][1] += block[1]
                else:
                    merged.append(block)
            segment["blocks"] = merged
        self.record("free_completed", address, requested)

    def run(self, actions):
        for _ in range(actions):
            idle = [a for a, (_, state, _) in self.live.items() if state == "active_allocated"]
            if self.pending and self.rng.random() < 0.3:
                self.complete(self.pending.pop(0))
            elif idle and self.rng.random() < 0.48:
                self.free(self.rng.choice(idle))
            else:
                self.alloc(self.rng.choice([4, 600, 40_000, 300_000, 5_000_001]))
        self.record("oom", 3 * MIB, 1 << 40)
        self.record("snapshot", 0, sum(s["total"] for s in self.segments), frames=[])

    def segment_dicts(self, empty_frames):
        return [self.segment_dict(s, empty_frames) for s in self.segments]

    def segment_dict(self, s, empty_frames):
        blocks = []
        for address, size, requested in s["blocks"]:
            _, state, stack = self.live[address] if requested is not None else (0, "inactive", empty_frames)
            blocks.append({"address": address, "size": size, "requested_size": requested or 0, "state": state, "frames": stack})
        active = [b for b in blocks if b["state"] != "inactive"]
        return {"device": self.device, "address": s["address"], "total_size": s["total"],
                "allocated_size": sum(b["size"] for b in active if b["state"] == "active_allocated"), "active_size": sum(b["size"] for b in active),
                "requested_size": sum(b["requested_size"] for b in active), "stream": 0, "segment_type": "large", "segment_pool_id": (0, 0),
                "is_expandable": self.expandable, "frames": s["frames"], "blocks": blocks}

    def expected(self, shown):
        """Of the last `shown` entries."""
        window = self.history[len(self.history) - shown - 1:] if shown < len(self.history) else [(0, {})] + self.history
        return {"start_bytes": window[0][0], "peak_bytes": max(live for live, _ in window), "end_bytes": window[-1][0],
                "blocks_at_start": len(window[0][1]), "blocks_at_end": len(window[-1][1]), "entries": shown}


SETTINGS = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "max_split_size": -1, "garbage_collection_threshold": 0.75, "expandable_segments": True,
            "pinned_num_register_threads": 1, "release_lock_on_cudamalloc": False, "pinned_use_cuda_host_register": False,
            "roundup_power2_divisions": {str(1 << i): 0 for i in range(16)}, "graph_capture_record_stream_reuse": False}


def training(ring):
    rng = random.Random(7)
    names = ["forward", "backward", "step", "linear", "softmax", "größe", "<module>"]
    frames = [{"filename": f"/src/model_{i % 4}.py", "line": 10 + i, "name": names[i % 7]} for i in range(24)]
    empty_frames, snapshot, expected = [], {"segments": [], "device_traces": [], "allocator_settings": SETTINGS}, {}
    for device, expandable in [(0, False), (2, True)]:
        allocator = Allocator(device, rng, frames, expandable)
        allocator.run(150 if device == 0 else 40)
        shown = min(ring, len(allocator.trace))
        while len(snapshot["device_traces"]) < device:
            snapshot["device_traces"].append([])
        snapshot["segments"] += allocator.segment_dicts(empty_frames)
        snapshot["device_traces"].append(allocator.trace[-shown:])
        expected[str(device)] = allocator.expected(shown)
    snapshot["external_annotations"] = [{"stage": "START", "name": "step", "device": 0, "time_us": 1_760_000_000_000_003}]
    return snapshot, expected


class TorchPickler:
    """torch/csrc/jit/serialization/pickler.cpp without type tags: one batch a container, and the memo number after the container is filled."""

    def __init__(self):
        self.out, self.memo, self.keep = bytearray(b"\x80\x02"), {}, []

    def put(self, key):
        number = len(self.memo)
        self.memo[key] = number
        self.out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def push(self, v):
        key = ("s", v) if isinstance(v, str) else id(v)
        if isinstance(v, (str, list, dict, tuple)) and key in self.memo:
            number = self.memo[key]
            self.out += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)
            return
        if isinstance(v, bool):
            self.out += b"\x88" if v else b"\x89"
        elif isinstance(v, int):
            small = [(256, b"K", "<B"), (65536, b"M", "<H")]
            form = next(((op, f) for most, op, f in small if 0 <= v < most), None)
            form = form or ((b"J", "<i") if -2**31 <= v < 2**31 else (b"\x8a\x08", "<q"))
            self.out += form[0] + struct.pack(form[1], v)
        elif isinstance(v, float):
            self.out += b"G" + struct.pack(">d", v)
        elif isinstance(v, str):
            raw = v.encode()
            self.out += b"X" + struct.pack("<I", len(raw)) + raw
        elif isinstance(v, tuple):
            for item in v:
                self.push(item)
            self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(v)]
        elif isinstance(v, list):
            self.out += b"](" if v else b"]"
            for item in v:
                self.push(item)
            self.out += b"e" if v else b""
        elif isinstance(v, dict):
            self.out += b"}("
            for k, item in v.items():
                self.push(k)
                self.push(item)
            self.out += b"u"
        if isinstance(v, (str, list, dict, tuple)):
            self.keep.append(v)
            self.put(key)


def legacy():
    """2022: a list of segments; stacks in each block's history; no requested_size, no trace."""
    frames = [{"filename": "old.py", "line": i, "name": f"f{i}"} for i in range(3)]
    return [{"device": 0, "address": 4096, "total_size": 4096, "allocated_size": 1024, "active_size": 2048, "stream": 0, "segment_type": "small",
             "blocks": [{"size": 1024, "state": "active_allocated", "history": [{"addr": 4096, "real_size": 1000, "frames": frames[:2]},
                                                                                {"addr": 4096, "real_size": 900, "frames": frames}]},
                        {"size": 1024, "state": "active_awaiting_free"}, {"size": 2048, "state": "inactive"}]}]


class RunsCode:
    def __reduce__(self):
        import os
        return (os.system, ("echo this ran",))


def profile():
    import torch
    from torch.cuda._memory_viz import _profile_to_snapshot
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    with torch.profiler.profile(profile_memory=True, with_stack=True, record_shapes=True) as prof:
        model(torch.randn(8, 16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    snapshot = _profile_to_snapshot(prof)
    for entry in (e for trace in snapshot["device_traces"] for e in trace):
        for frame in entry["frames"]:
            frame["name"] = re.sub(r" at 0x[0-9a-f]+|\S*/site-packages/", "", frame["name"])
    return snapshot


def main():
    def write(name, data):
        with open(name, "wb") as f:
            f.write(data)

    expected = {}
    whole, expected["training.pickle"] = training(10**6)
    ring, expected["ring.pickle"] = training(60)
    write("training.pickle", pickle.dumps(whole, protocol=4))
    write("ring.pickle", pickle.dumps(ring, protocol=2))
    write("ring_protocol5.pickle", pickle.dumps(ring, protocol=5))
    torch_pickler = TorchPickler()
    torch_pickler.push(ring)
    write("ring_torch_pickler.pickle", bytes(torch_pickler.out) + b".")
    assert pickle.loads(bytes(torch_pickler.out) + b".") == ring
    write("legacy_list.pickle", pickle.dumps(legacy(), protocol=2))
    write("runs_code_protocol2.pickle", pickle.dumps({"segments": [RunsCode()], "device_traces": []}, protocol=2))
    write("runs_code_protocol4.pickle", pickle.dumps({"segments": [RunsCode()], "device_traces": []}, protocol=4))
    if "--profile" in sys.argv:
        write("profile.pickle", pickle.dumps(profile(), protocol=4))
    with open("expected.json", "w") as f:
        json.dump(expected, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
