// SPDX-License-Identifier: GPL-2.0

//! Strings, as in `rust/kernel/str.rs`.

pub use core::ffi::CStr;

/// A C string from a constant string.
#[macro_export]
macro_rules! c_str {
    ($str:expr) => {{
        const C: &$crate::str::CStr =
            match $crate::str::CStr::from_bytes_with_nul(concat!($str, "\0").as_bytes()) {
                Ok(string) => string,
                Err(_) => panic!("a NUL inside the string"),
            };
        C
    }};
}
