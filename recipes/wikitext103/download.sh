#!/usr/bin/env bash
# Download WikiText-103 into DIR/wikitext-103 and check it: recipes/wikitext103/download.sh DIR. 180 MB.
set -euo pipefail
die() { echo "error: $*" >&2; exit 2; }
# SHA-256 as CorpusLoaders.jl and other readers of the archive give it; torchtext's MD5 is of the same file.
url=https://wikitext.smerity.com/wikitext-103-v1.zip
published=242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590
dir=${1:?give the folder to download into}
archive=$dir/wikitext-103-v1.zip
[ ! -e "$dir/wikitext-103" ] || exit 0
mkdir -p "$dir"
curl --fail --location --output "$archive" "$url" || die "$url cannot be read; give --raw, the folder of WikiText-103"
sum=$(sha256sum < "$archive")
[ "${sum%% *}" = $published ] || die "$archive has the SHA-256 ${sum%% *}, the published one has $published"
"${PYTHON:-python3}" -m zipfile --extract "$archive" "$dir/unpacked"
mv "$dir/unpacked/wikitext-103" "$dir/wikitext-103"
rm -r "$archive" "$dir/unpacked"
