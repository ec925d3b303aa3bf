//! A flame graph as one picture that a browser can search and zoom.
//!
//! In: folded text. Out: SVG, drawn by inferno, with its script inside. Not here: any layout of ours.

use std::io;

use inferno::flamegraph::{self, Options};

use super::folded;
use crate::model::Profile;

/// All stacks of `profiles`. An error if there are none, for a picture of nothing cannot be drawn.
pub fn encode(profiles: &[Profile]) -> io::Result<Vec<u8>> {
    let mut options = Options::default();
    "CPU".clone_into(&mut options.title);
    let (folded, mut svg) = (folded::encode(profiles), Vec::new());
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::encode::speedscope::tests::{KIND, profile};

    #[test]
    fn the_picture_has_all_samples_and_hostile_names_are_text() {
        let svg = encode(&[profile("a", &["<script>", "main"], 7), profile("b", &["main"], 2)]).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("all (9 samples, 100%)"), "{svg}");
        assert!(svg.contains("&lt;script&gt; (7 samples"), "{svg}");
        assert!(!svg.contains("<script>"), "{svg}");
        assert_eq!(KIND.period_ns(), 10);
    }

    #[test]
    fn nothing_is_no_picture() {
        assert!(encode(&[]).is_err());
    }
}
