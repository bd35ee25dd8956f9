# Usage: unpack-kernel.sh OUT FILE...
#
# Unpacks packages, archives or a bare image, and lays out in OUT what is in them of one kernel: `bzImage`,
# `lib/modules/<release>`, `config`.
set -euo pipefail
shopt -s nullglob

out=$1
shift
tree=$(mktemp -d)

for file in "$@"; do
  case $file in
    *.deb) dpkg-deb --extract "$file" "$tree" ;;
    *.tar.zst) tar --extract --zstd --file "$file" --directory "$tree" ;;
    *) cp "$file" "$tree/bzImage" ;;
  esac
done

# Only a pattern vanishes when nothing matches it.
images=("$tree"/{,boot/}{bzImage,vmlinuz}* "$tree"/{,usr/}lib/modules/*/vmlinu[z])
configs=("$tree"/{,boot/}config* "$tree"/{,usr/}lib/modules/*/confi[g])
modules=("$tree"/{,usr/}lib/modules/*/)

# Which of several would be meant nobody can tell.
if ((${#images[@]} != 1 || ${#modules[@]} > 1)); then
  echo "expected one kernel, found ${#images[@]} images and ${#modules[@]} directories of modules in: $*" >&2
  exit 1
fi

mkdir -p "$out"
cp "${images[0]}" "$out/bzImage"
if ((${#configs[@]})); then
  cp "${configs[0]}" "$out/config"
fi
if ((${#modules[@]})); then
  mkdir -p "$out/lib/modules"
  mv "${modules[0]}" "$out/lib/modules/"
  # Packages leave this to the machine that they are installed on.
  depmod --basedir "$out" "$(basename "${modules[0]}")"
fi
