//! Tells the linker to build a freestanding image instead of a Linux program.

use std::env;

fn main() {
    let directory = env::var("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.ld");
    let script = format!("-Wl,-T,{directory}/link.ld");
    let flags = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        &script,
    ];
    for flag in flags {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
}
