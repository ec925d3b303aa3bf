//! The page: three files, made by `cargo xtask build-ui` from `ui/src` and kept with the sources, so that building the
//! daemon needs no other tools.

use super::web::{Answer, tagged, text, unchanged};
use http::{HeaderMap, StatusCode};

struct File {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const FILES: &[File] = &[
    File {
        path: "/",
        content_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../../ui/dist/index.html"),
    },
    File {
        path: "/app.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../ui/dist/app.js"),
    },
    File {
        path: "/app.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../ui/dist/app.css"),
    },
];

/// The file of the page at `path`, if there is one.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Answer> {
    let file = FILES.iter().find(|file| file.path == path)?;
    let tag = tag(file.bytes);
    Some(
        unchanged(headers, &tag)
            .unwrap_or_else(|| tagged(text(StatusCode::OK, file.content_type, file.bytes), &tag)),
    )
}

/// FNV-1a: another file has another tag, and nobody gains by forging one.
fn tag(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
}
