//! A body as it came, or the parts of a form.

use std::collections::HashMap;

use multer::{Constraints, Multipart, SizeLimit};
use serde::Deserialize;

use super::unprocessable;
use crate::server::refusal::Refusal;

/// Parts of a form at most: a profile, the one before it, what its samples are.
const PARTS_MAX: usize = 8;

/// What is in a body.
#[derive(Debug)]
pub(in crate::server) enum Form {
    /// No form.
    Whole(Vec<u8>),
    /// A form.
    Parts {
        /// A pprof.
        profile: Vec<u8>,
        /// What the kinds of samples are called instead of their names in the pprof.
        names: HashMap<String, String>,
    },
}

/// What a kind of samples is.
#[derive(Debug, Deserialize)]
struct SampleType {
    #[serde(rename = "display-name", default)]
    display_name: String,
}

/// Reads `body`; the boundary of a form is in `content_type`. A body is bounded already, and so are its parts.
pub(in crate::server) async fn parts(body: Vec<u8>, content_type: &str) -> Result<Form, Refusal> {
    if !content_type.starts_with("multipart/") {
        return Ok(Form::Whole(body));
    }
    let broken = |error: multer::Error| unprocessable(format!("reading the form: {error}"));
    let boundary = multer::parse_boundary(content_type).map_err(broken)?;
    let limit = SizeLimit::new().whole_stream(body.len() as u64);
    let constraints = Constraints::new().size_limit(limit);
    let mut form = Multipart::with_reader_with_constraints(&*body, boundary, constraints);
    let (mut profile, mut names) = (Vec::new(), HashMap::new());
    let mut count = 0;
    while let Some(part) = form.next_field().await.map_err(broken)? {
        count += 1;
        if count > PARTS_MAX {
            return Err(unprocessable(format!("the form has more than {PARTS_MAX} parts")));
        }
        match part.name() {
            Some("profile") => profile = part.bytes().await.map_err(broken)?.to_vec(),
            Some("prev_profile") => {
                return Err(unprocessable(
                    "unsupported client version: it sends the profile before this one too",
                ));
            }
            Some("sample_type_config") => {
                let bytes = part.bytes().await.map_err(broken)?;
                let types: HashMap<String, SampleType> = serde_json::from_slice(&bytes)
                    .map_err(|error| unprocessable(format!("sample_type_config: {error}")))?;
                names.extend(types.into_iter().map(|(name, kind)| (name, kind.display_name)));
            }
            _ => {}
        }
    }
    Ok(Form::Parts { profile, names })
}
