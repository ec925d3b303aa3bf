//! What was looked at in a machine, and whether it was as it should be.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What.
    pub what: String,
    /// What was seen.
    pub seen: String,
    /// Whether that is what was to be seen.
    pub well: bool,
}

/// What was seen of a machine, a line each.
pub(crate) fn table(name: &str, release: &str, findings: &[Finding]) -> String {
    let mut text = format!("\nLinux {release} ({name})\n");
    for Finding { what, seen, well } in findings {
        let result = if *well { "ok" } else { "FAULT" };
        text += &format!("  {result:<6}{what:<36} {seen}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_seen_in_the_table() {
        let finding = Finding { what: "program cpu".into(), seen: "refused".into(), well: false };
        let text = table("own", "5.15.0", &[finding]);
        assert!(text.contains("Linux 5.15.0 (own)") && text.contains("FAULT program cpu"), "{text}");
    }
}
