// SPDX-License-Identifier: GPL-2.0

//! Makes what the tests compare with the kernel's headers, if they are asked for. Kbuild has no use
//! for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "kernel-headers")]
    uapi::generate();
}

#[cfg(feature = "kernel-headers")]
mod uapi {
    use std::{env, path::PathBuf};

    /// Constants for what the header has as macros of expressions, which bindgen passes over.
    const REQUESTS: [&str; 10] = [
        "READ",
        "WRITE",
        "MIGRATE_TO_DEV",
        "MIGRATE_TO_SYS",
        "SNAPSHOT",
        "EXCLUSIVE",
        "CHECK_EXCLUSIVE",
        "RELEASE",
        "FLAGS",
        "READ_UNLOCKED",
    ];

    pub(super) fn generate() {
        println!("cargo::rerun-if-env-changed=KERNEL_SOURCE");
        let source = PathBuf::from(env::var_os("KERNEL_SOURCE").expect(
            "the feature kernel-headers needs the kernel's source: \
             KERNEL_SOURCE=/path/to/linux cargo test -p gpu_mirror_rs --features kernel-headers",
        ));
        let header = source.join("lib/test_hmm_uapi.h");
        println!("cargo::rerun-if-changed={}", header.display());

        let mut contents = format!("#include \"{}\"\n", header.display());
        for request in REQUESTS {
            contents += &format!("static const __u32 REQUEST_{request} = HMM_DMIRROR_{request};\n");
        }
        bindgen::builder()
            .header_contents("uapi.h", &contents)
            .allowlist_type("hmm_dmirror_cmd")
            .allowlist_var("REQUEST_.*|HMM_DMIRROR_PROT_.*")
            .generate()
            .expect("bindgen")
            .write_to_file(PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("uapi.rs"))
            .unwrap();
    }
}
