# Sourced by `dev`: what it takes to compile and run for another architecture. Debian's cross gcc comes as an ordinary
# package; the foreign libraries lie in a folder below target/, fetched by an apt with lists of its own. So this machine's dpkg
# never hears of a foreign architecture, and no other package of it is touched.

# What a target is called: by Rust (the argument), by Debian, by gcc and by qemu.
name_target() {
  TARGET="$1"
  case "$TARGET" in
    x86_64-unknown-linux-gnu) ARCHITECTURE=amd64 GNU=x86_64-linux-gnu QEMU=qemu-x86_64-static ;;
    aarch64-unknown-linux-gnu) ARCHITECTURE=arm64 GNU=aarch64-linux-gnu QEMU=qemu-aarch64-static ;;
    armv7-unknown-linux-gnueabihf) ARCHITECTURE=armhf GNU=arm-linux-gnueabihf QEMU=qemu-arm-static ;;
    *) fail "no packages are made for $TARGET: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu or armv7-unknown-linux-gnueabihf" ;;
  esac
  ROOT="$PWD/target/foreign/$ARCHITECTURE"
}

is_native() {
  [[ "$ARCHITECTURE" == "$(dpkg --print-architecture)" ]]
}

# Everything to compile for the target, which `name_target` named. Sets what cargo and C compilers read.
prepare_target() {
  local upper="${TARGET//-/_}"
  upper="${upper^^}"
  export PATHS_IN_C="-ffile-prefix-map=$PWD=/usr/src/tapline -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/usr/src/cargo"
  export "CFLAGS_${TARGET//-/_}=$PATHS_IN_C"
  local std=""
  if ! is_native; then
    install_missing "gcc-${GNU//_/-}" "libc6-dev-$ARCHITECTURE-cross"
    export "CARGO_TARGET_${upper}_LINKER=$GNU-gcc" "CC_${TARGET//-/_}=$GNU-gcc" "AR_${TARGET//-/_}=$GNU-ar"
    export PCSC_LIB_DIR="$ROOT/usr/lib/$GNU"
    fetch_foreign libpcsclite1 libpcsclite-dev libc6 libgcc-s1
    if ! rustup_has_target; then
      debian_rust
      fetch_foreign "libstd-rust-web-dev=$(dpkg-query --show --showformat '${Version}' rustc-web)"
      std="$ROOT/usr/lib/rustlib/$TARGET/lib"
    fi
  fi
  wrap_rustc "$std"
}

rustup_has_target() {
  command -v rustup >/dev/null && rustup target add "$TARGET" >/dev/null 2>&1
}

# Debian's compiler, because its standard library is to be had for every architecture.
debian_rust() {
  install_missing rustc-web cargo-web
  export PATH="/usr/bin:$PATH"
  rust_is_new_enough || fail "Debian's rustc-web is $(rustc --version), and Rust $OLDEST_RUST or newer is needed"
}

# The compiler with what must not be part of the build's identity: where a foreign standard library lies, and where this
# folder does. (In RUSTFLAGS it would change the names of symbols, and two folders would build two different programs.)
wrap_rustc() {
  local std="$1" wrapper="$PWD/target/foreign/rustc-$TARGET"
  mkdir -p "$(dirname "$wrapper")"
  cat >"$wrapper" <<WRAPPER
#!/bin/sh
case " \$* " in
  *" --target $TARGET "*) exec "$(command -v rustc)" "\$@" ${std:+-L "$std"} \\
    --remap-path-prefix "$PWD=/usr/src/tapline" --remap-path-prefix "${CARGO_HOME:-$HOME/.cargo}=/usr/src/cargo" ;;
esac
exec "$(command -v rustc)" "\$@"
WRAPPER
  chmod +x "$wrapper"
  export RUSTC="$wrapper"
}

# Unpacks packages of the target's architecture, `NAME` or `NAME=VERSION`, into $ROOT.
fetch_foreign() {
  local apt="$ROOT/apt" package missing=()
  for package in "$@"; do
    [[ -e "$apt/unpacked/$package" ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "fetching for $ARCHITECTURE into $ROOT: ${missing[*]}"
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked"
  : >"$apt/state/status"
  # This machine's own sources, as far as they are Debian's, by the keys that it trusts.
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
    awk -v by="$([[ -e "$keys" ]] && echo "[signed-by=$keys] ")" '$4 == "Debian" { print "deb " by $1 " " $2 " " $3 }' | sort --unique >"$apt/sources.list"
  [[ -s "$apt/sources.list" ]] || fail "foreign libraries come from Debian, which this machine has no apt source for. With Docker: cross.toml"
  cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "$ARCHITECTURE";
APT::Architectures { "$ARCHITECTURE"; };
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
  apt-get --config-file="$apt/apt.conf" --quiet=2 update ||
    say "not every list for $ARCHITECTURE can be had; going on with the others"
  for package in "${missing[@]}"; do
    (cd "$apt/cache" && rm -f ./*.deb && apt-get --config-file="$apt/apt.conf" --quiet=2 download "$package") ||
      fail "Debian has no $package for $ARCHITECTURE here and now. With rustup and its target $TARGET, or with Docker (cross.toml), it is not needed"
    dpkg-deb --extract "$apt/cache"/*.deb "$ROOT"
    touch "$apt/unpacked/$package"
  done
  rm -f "$apt/cache"/*.deb
}
