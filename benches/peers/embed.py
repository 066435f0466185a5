"""ONNX Runtime on the same weights, for `benches/embed`, which starts this and asks over standard input.

    embed.py MODEL_DIR

Writes the fp32 ONNX from the safetensors file into this environment, once. Each line asked is JSON:

- {"engine": "fp32" | "int8", "batches": [[[ids]]], "runs": n}: answers with the seconds of each run over all batches,
  padded to the longest text of the batch, pooled and normalised as the service does;
- {"engine": ..., "vectors": [[ids]]}: with the vectors of one batch;
- {"sgemm": n}: with the GFLOP/s of three products of n x n matrices.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

THREADS = 2


def tensors_of(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    for name, about in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = about["data_offsets"]
            values = np.frombuffer(raw[8 + length + start : 8 + length + end], dtype="<f4")
            yield name, values.reshape(about["shape"])


def write_onnx(folder, path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nodes, constants = [], {}

    def constant(name, values):
        constants[name] = np.asarray(values)
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    for name, values in tensors_of(folder / "model.safetensors"):
        transposed = name.endswith("weight") and values.ndim == 2 and "embeddings" not in name
        constant(name, values.T.copy() if transposed else values)
    one = constant("one", np.float32(1))
    split = constant("split", np.array([0, 0, heads, hidden // heads], dtype=np.int64))
    joined = constant("joined", np.array([0, 0, hidden], dtype=np.int64))

    def linear(x, name):
        product = node("MatMul", [x, f"{name}.weight"], f"{name}/MatMul")
        return node("Add", [product, f"{name}.bias"], f"{name}/Add")

    def norm(x, name):
        epsilon = config["layer_norm_eps"]
        return node("LayerNormalization", [x, f"{name}.weight", f"{name}.bias"], f"{name}/out", axis=-1, epsilon=epsilon)

    words = node("Gather", ["embeddings.word_embeddings.weight", "input_ids"], "words")
    places = node("Gather", ["embeddings.position_embeddings.weight", "position_ids"], "places")
    constant("type", constants["embeddings.token_type_embeddings.weight"][0])
    x = node("Add", [node("Add", [words, places], "placed"), "type"], "typed")
    x = norm(x, "embeddings.LayerNorm")
    mask = node("Unsqueeze", ["attention_mask", constant("axes", np.array([1, 2], dtype=np.int64))], "mask")
    floats = node("Cast", [mask], "floats", to=TensorProto.FLOAT)
    left_out = node("Mul", [node("Sub", [one, floats], "inverse"), constant("low", np.float32(-3.4e38))], "left_out")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"

        def heads_of(part, order):
            shaped = node("Reshape", [linear(x, f"{at}.attention.self.{part}"), split], f"{at}/{part}/split")
            return node("Transpose", [shaped], f"{at}/{part}/heads", perm=order)

        query, key, value = heads_of("query", [0, 2, 1, 3]), heads_of("key", [0, 2, 3, 1]), heads_of("value", [0, 2, 1, 3])
        scores = node("MatMul", [query, key], f"{at}/scores")
        root = constant("root", np.float32(np.sqrt(hidden // heads)))
        scores = node("Add", [node("Div", [scores, root], f"{at}/scaled"), left_out], f"{at}/masked")
        mixed = node("MatMul", [node("Softmax", [scores], f"{at}/shares", axis=-1), value], f"{at}/mixed")
        mixed = node("Transpose", [mixed], f"{at}/rows", perm=[0, 2, 1, 3])
        mixed = linear(node("Reshape", [mixed, joined], f"{at}/joined"), f"{at}.attention.output.dense")
        x = norm(node("Add", [mixed, x], f"{at}/attended"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        half = node("Div", [inner, constant("sqrt2", np.float32(np.sqrt(2)))], f"{at}/gelu/div")
        half = node("Add", [node("Erf", [half], f"{at}/gelu/erf"), one], f"{at}/gelu/add")
        half = node("Mul", [inner, half], f"{at}/gelu/mul")
        inner = node("Mul", [half, constant("half", np.float32(0.5))], f"{at}/gelu/half")
        x = norm(node("Add", [linear(inner, f"{at}.output.dense"), x], f"{at}/out"), f"{at}.output.LayerNorm")
    nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    shape = ["batch", "tokens"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask", "position_ids")
    ]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, hidden])]
    used = {name for n in nodes for name in n.input}
    initializers = [numpy_helper.from_array(values, name) for name, values in constants.items() if name in used]
    graph = helper.make_graph(nodes, "bert", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def embed(model, batch):
    longest = max(map(len, batch))
    ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    names = {wanted.name for wanted in model.get_inputs()}
    places = np.broadcast_to(np.arange(longest, dtype=np.int64), ids.shape)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = model.run(["last_hidden_state"], {name: given[name] for name in names})
    summed = (hidden * mask[..., None]).sum(axis=1)
    return summed / np.linalg.norm(summed, axis=1, keepdims=True)


def sgemm(size):
    a, b = np.random.default_rng(1).random((2, size, size), dtype=np.float32)
    started = time.perf_counter()
    a @ b
    return 2 * size**3 / (time.perf_counter() - started) / 1e9


def main():
    folder, home = Path(sys.argv[1]), Path(sys.prefix)
    fp32 = home / "fp32.onnx"
    if not fp32.exists():
        write_onnx(folder, fp32)
    (int8,) = (home / "int8").glob("**/model.onnx")
    sessions = {"fp32": session(fp32), "int8": session(int8)}
    for line in sys.stdin:
        asked = json.loads(line)
        if "sgemm" in asked:
            answer = [sgemm(asked["sgemm"]) for _ in range(3)]
        elif "vectors" in asked:
            answer = embed(sessions[asked["engine"]], asked["vectors"]).tolist()
        else:
            model, answer = sessions[asked["engine"]], []
            for _ in range(asked["runs"]):
                started = time.perf_counter()
                for batch in asked["batches"]:
                    embed(model, batch)
                answer.append(time.perf_counter() - started)
        print(json.dumps(answer), flush=True)


main()
