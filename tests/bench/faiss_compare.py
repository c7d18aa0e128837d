#!/usr/bin/env python3
"""Which groups of 16 keys a token reads: our index against FAISS's on the same keys and queries of a real model, one thread.

    python3 -m venv v && v/bin/pip install faiss-cpu numpy
    ninja -C build index_dump
    v/bin/python tests/bench/faiss_compare.py build/tests/index_dump MODEL.gguf [--groups 8192,32768,524288] [--layers 12]

For every index: what building it takes, what one token of one KV head takes (all query heads that read it), and of the 256 groups
(4,096 tokens) chosen, how many are among those 256 that have the most attention, and the share of the attention that they have.
FAISS indexes the mean of each group, or each key ("keys"); what it finds for each head becomes a softmax, and groups are chosen by the
sum over heads, as with our index.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time

import faiss
import numpy as np

CHOSEN = 256
KEYS_FOUND = 2048  # keys asked for, of each head: some are of one group


def load(folder, size, what, *shape):
    path = os.path.join(folder, f"{size['layer']}-{size['groups']}.{what}")
    return np.fromfile(path, np.float32).reshape(shape) if os.path.exists(path) else None


def indexes(dim, found):
    flat = faiss.IndexFlatIP(dim)
    codes = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    graph = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 40
    graph.hnsw.efSearch = found
    return ("IndexFlatIP", flat), ("IndexScalarQuantizer, 8 bit", codes), (f"IndexHNSWFlat, M 32, efSearch {found}", graph)


def shares_of(scores, labels, groups, keys_a_group):
    """[groups]: what the heads' findings say each has of the softmax, added up."""
    weights = np.where(labels >= 0, np.exp(scores - scores.max(axis=1, keepdims=True)), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    shares = np.zeros(groups)
    np.add.at(shares, np.maximum(labels, 0).ravel() // keys_a_group, weights.ravel())
    return shares


def judge(shares, exact, heads):
    chosen, best = (set(np.argpartition(-s, CHOSEN)[:CHOSEN]) for s in (shares, exact))
    return len(chosen & best) / CHOSEN, float(exact[list(chosen)].sum()) / heads


def search(index, queries, found):
    """Scores and labels for each question, and the least time of one."""
    results, least = [], np.inf
    for question in queries:
        for _ in range(3):
            began = time.thread_time()
            result = index.search(question, found)
            least = min(least, time.thread_time() - began)
        results.append(result)
    return results, least


def rows_of(folder, size):
    groups, heads, questions = size["groups"], size["heads"], size["questions"]
    queries = load(folder, size, "queries", questions, heads, size["head_dim"])
    exact = load(folder, size, "exact", questions, groups)
    ours = load(folder, size, "ours", questions, groups)
    yield "exact choice", 0, np.nan, np.mean([judge(e, e, heads) for e in exact], axis=0)
    yield "ours, flat", 0, size["scan_s"], np.mean([judge(o, e, heads) for o, e in zip(ours, exact)], axis=0)
    for what, keys_a_group, found in (("means", 1, CHOSEN), ("keys", 16, KEYS_FOUND)):
        vectors = load(folder, size, what, -1, size["head_dim"])
        if vectors is None:
            continue
        for name, index in indexes(size["head_dim"], found):
            began = time.thread_time()
            index.train(vectors)
            index.add(vectors)
            built = time.thread_time() - began
            results, seconds = search(index, queries, found)
            judged = [judge(shares_of(*result, groups, keys_a_group), e, heads) for result, e in zip(results, exact)]
            yield f"{name}, {what}", built, seconds, np.mean(judged, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump")
    parser.add_argument("model")
    parser.add_argument("--tokens", default="8192", help="of the text that is computed; more are copies")
    parser.add_argument("--groups", default="8192,32768")
    parser.add_argument("--layers", default="12")
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print("| tokens | index | built in s | ms a token | recall of 256 | attention |\n|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([asked.dump, asked.model, folder, asked.tokens, asked.groups, asked.layers], check=True,
                              stdout=subprocess.PIPE, text=True)
        for size in map(json.loads, done.stdout.splitlines()):
            for name, built, seconds, (recall, mass) in rows_of(folder, size):
                print(f"| {16 * size['groups']} | {name} | {built:.1f} | {1000 * seconds:.2f} | {recall:.3f} | {mass:.3f} |", flush=True)


if __name__ == "__main__":
    main()
