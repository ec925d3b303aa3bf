//! What operators make of labels: rules as Prometheus has them (`relabel_config`).
//!
//! In: rules, as TOML, and the labels of a process. Out: other labels, or the word that it is not to be profiled. The semantics are
//! Prometheus's to the letter (a label without a value is one that is not there; expressions match the whole), so that rules can be
//! carried over. Not here: where labels come from.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use md5::{Digest, Md5};
use regex_lite::{Regex, RegexBuilder};
use toml::Value;

/// Rules at most: each is a match per process and reload.
const RULES_MAX: usize = 256;
/// Bytes of a compiled expression at most.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Labels by name.
pub(super) type Pairs = BTreeMap<Arc<str>, Arc<str>>;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

/// Names of the actions, and the fields that each has a use for beside `action`.
const ACTIONS: [(&str, Action, &[&str]); 11] = [
    ("replace", Action::Replace, &["source_labels", "separator", "regex", "target_label", "replacement"]),
    ("keep", Action::Keep, &["source_labels", "separator", "regex"]),
    ("drop", Action::Drop, &["source_labels", "separator", "regex"]),
    ("keepequal", Action::KeepEqual, &["source_labels", "separator", "target_label"]),
    ("dropequal", Action::DropEqual, &["source_labels", "separator", "target_label"]),
    ("hashmod", Action::HashMod, &["source_labels", "separator", "target_label", "modulus"]),
    ("labelmap", Action::LabelMap, &["regex", "replacement"]),
    ("labeldrop", Action::LabelDrop, &["regex"]),
    ("labelkeep", Action::LabelKeep, &["regex"]),
    ("lowercase", Action::Lowercase, &["source_labels", "separator", "target_label"]),
    ("uppercase", Action::Uppercase, &["source_labels", "separator", "target_label"]),
];

#[derive(Clone, Debug)]
struct Rule {
    action: Action,
    source_labels: Vec<String>,
    separator: String,
    regex: Regex,
    target_label: String,
    replacement: String,
    modulus: u64,
}

/// Rules, in order. Cheap to clone; clones share them, so that a reload reaches whoever applies them.
#[derive(Clone, Debug, Default)]
pub struct Relabel(Arc<RwLock<Rules>>);

#[derive(Debug, Default)]
struct Rules {
    rules: Arc<[Rule]>,
    version: u64,
}

impl Relabel {
    /// The rules in `text`, a TOML array of tables; empty for none. Everything that is wrong, one line each.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let tables = match tables(text) {
            Ok(tables) => tables,
            Err(problem) => return Err(vec![problem]),
        };
        if tables.len() > RULES_MAX {
            return Err(vec![format!("relabel has {} rules, more than {RULES_MAX}", tables.len())]);
        }
        let mut rules = Vec::new();
        for (number, table) in (1..).zip(&tables) {
            let mut found = Vec::new();
            rules.extend(rule(table, &mut found));
            problems.extend(found.into_iter().map(|problem| format!("relabel, rule {number}: {problem}")));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self(Arc::new(RwLock::new(Rules { rules: rules.into(), version: 0 }))))
    }

    /// Takes the rules of `newer`, from the next window on.
    pub fn replace(&self, newer: &Self) {
        let rules = newer.0.read().unwrap_or_else(PoisonError::into_inner).rules.clone();
        let mut own = self.0.write().unwrap_or_else(PoisonError::into_inner);
        own.version += 1;
        own.rules = rules;
    }

    /// Changes whenever the rules do.
    pub(super) fn version(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// What becomes of `labels`; `None` if they are not wanted.
    pub(super) fn apply(&self, mut labels: Pairs) -> Option<Pairs> {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner).rules.clone();
        rules.iter().all(|rule| rule.apply(&mut labels)).then_some(labels)
    }
}

/// `text` as tables.
fn tables(text: &str) -> Result<Vec<toml::Table>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let table: toml::Table = format!("relabel = {text}")
        .parse()
        .map_err(|error: toml::de::Error| format!("relabel is not TOML: {}", error.message()))?;
    let Some(Value::Array(rules)) = table.get("relabel") else {
        return Err("relabel is not a list of tables: write [[relabel]] above each rule".to_owned());
    };
    let table = |rule: &Value| rule.as_table().cloned();
    rules
        .iter()
        .map(table)
        .collect::<Option<_>>()
        .ok_or_else(|| "relabel is not a list of tables: write [[relabel]] above each rule".to_owned())
}

/// The rule in `table`, unless something is wrong with it.
fn rule(table: &toml::Table, problems: &mut Vec<String>) -> Option<Rule> {
    let before = problems.len();
    let mut text = |name: &str, default: &str| match table.get(name) {
        None => default.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => {
            problems.push(format!("{name} = {other} is not a text"));
            default.to_owned()
        }
    };
    let word = text("action", "replace");
    let separator = text("separator", ";");
    let expression = text("regex", "(.*)");
    let target_label = text("target_label", "");
    let replacement = text("replacement", "$1");
    let source_labels = match table.get("source_labels") {
        None => Vec::new(),
        Some(Value::Array(names)) if names.iter().all(Value::is_str) => {
            names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(other) => {
            problems.push(format!("source_labels = {other} is not a list of texts"));
            Vec::new()
        }
    };
    for name in source_labels.iter().filter(|name| !is_name(name)) {
        problems.push(format!("source_labels: {name:?} is not the name of a label"));
    }
    let modulus = match table.get("modulus") {
        None => 0,
        Some(Value::Integer(number)) if *number > 0 => number.unsigned_abs(),
        Some(other) => {
            problems.push(format!("modulus = {other} is not a whole number above zero"));
            1
        }
    };
    // Anchored at both ends, and a dot is any character.
    let regex = RegexBuilder::new(&format!("^(?s:{expression})$")).size_limit(REGEX_BYTES_MAX).build();
    let regex = regex.map_err(|error| problems.push(format!("regex = {expression:?}: {error}"))).ok();
    let known = ACTIONS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(&word));
    let Some((name, action, fields)) = known else {
        let names: Vec<_> = ACTIONS.iter().map(|(name, ..)| *name).collect();
        problems.push(format!("action = {word:?} is not one of {}", names.join(", ")));
        return None;
    };
    for field in table.keys().filter(|field| *field != "action" && !fields.contains(&field.as_str())) {
        problems.push(format!("{name} has no use for {field}; it takes {}", fields.join(", ")));
    }
    let takes = |field: &str| fields.contains(&field);
    let is_target = is_name(&target_label) || (*action == Action::Replace && target_label.contains('$'));
    if takes("target_label") && !is_target {
        problems
            .push(format!("target_label = {target_label:?} is not the name of a label, which {name} needs"));
    }
    if takes("modulus") && modulus == 0 {
        problems.push("hashmod needs a modulus".to_owned());
    }
    if *action == Action::LabelMap && !replacement.contains('$') && !is_name(&replacement) {
        problems.push(format!("replacement = {replacement:?} is not the name of a label"));
    }
    let regex = regex.filter(|_| problems.len() == before)?;
    Some(Rule { action: *action, source_labels, separator, regex, target_label, replacement, modulus })
}

/// Whether servers take `name` as a label's.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Rule {
    /// False if the labels are not wanted.
    fn apply(&self, labels: &mut Pairs) -> bool {
        let value = |name: &str, labels: &Pairs| labels.get(name).map_or("", |value| value).to_owned();
        let sources: Vec<String> = self.source_labels.iter().map(|name| value(name, labels)).collect();
        let source = sources.join(&self.separator);
        match self.action {
            Action::Keep => return self.regex.is_match(&source),
            Action::Drop => return !self.regex.is_match(&source),
            Action::KeepEqual => return value(&self.target_label, labels) == source,
            Action::DropEqual => return value(&self.target_label, labels) != source,
            Action::Replace => {
                if let Some(found) = self.regex.captures(&source) {
                    let (mut target, mut text) = (String::new(), String::new());
                    found.expand(&self.target_label, &mut target);
                    found.expand(&self.replacement, &mut text);
                    if is_name(&target) {
                        put(labels, &target, &text);
                    }
                }
            }
            Action::HashMod => {
                // The last eight bytes, as Prometheus has it since its first version.
                let hash = Md5::digest(source.as_bytes());
                let last = hash.iter().skip(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
                put(labels, &self.target_label, &(last % self.modulus).to_string());
            }
            Action::Lowercase => put(labels, &self.target_label, &source.to_lowercase()),
            Action::Uppercase => put(labels, &self.target_label, &source.to_uppercase()),
            Action::LabelMap => {
                for (name, value) in labels.clone() {
                    if let Some(found) = self.regex.captures(&name) {
                        let mut target = String::new();
                        found.expand(&self.replacement, &mut target);
                        if is_name(&target) {
                            put(labels, &target, &value);
                        }
                    }
                }
            }
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }
}

/// An empty value takes the label away.
fn put(labels: &mut Pairs, name: &str, value: &str) {
    if value.is_empty() {
        labels.remove(name);
    } else {
        labels.insert(name.into(), super::sources::printable(value).into());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// What `rules`, one table a line, make of `labels`; a dash if they are not wanted.
    #[track_caller]
    fn check(rules: &[&str], labels: &[(&str, &str)], expected: &str) {
        let relabel = Relabel::parse(&format!("[{}]", rules.join(", "))).unwrap();
        let labels = labels.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let made = relabel.apply(labels).map_or("-".to_owned(), |labels| {
            let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(" ")
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn replace_is_the_default_and_copies_by_default() {
        check(&[r#"{ source_labels = ["a"], target_label = "b" }"#], &[("a", "x")], "a=x b=x");
        check(&[r#"{ target_label = "b", replacement = "fixed" }"#], &[("a", "x")], "a=x b=fixed");
    }

    #[test]
    fn sources_are_joined_and_an_absent_one_is_empty() {
        let joined = [("a", "foo"), ("b", "bar")];
        check(&[r#"{ source_labels = ["a", "b"], target_label = "d" }"#], &joined, "a=foo b=bar d=foo;bar");
        check(
            &[r#"{ source_labels = ["a", "x"], separator = "-", target_label = "d" }"#],
            &joined,
            "a=foo b=bar d=foo-",
        );
    }

    #[test]
    fn an_expression_matches_the_whole_or_not_at_all() {
        let rule =
            |regex: &str| format!(r#"{{ source_labels = ["a"], regex = "{regex}", target_label = "b" }}"#);
        check(&[&rule("f(o)")], &[("a", "foo")], "a=foo");
        check(&[&rule("f(o)o")], &[("a", "foo")], "a=foo b=o");
        check(&[&rule("x|(foo)")], &[("a", "foo")], "a=foo b=foo");
        check(&[&rule("(.*)")], &[("a", "one\ntwo")], "a=one\ntwo b=one?two");
    }

    #[test]
    fn groups_are_put_into_target_and_replacement() {
        check(
            &[
                r#"{ source_labels = ["a"], regex = "(?P<key>\\w+)=(\\w+)", target_label = "${key}_is", replacement = "$2$$${1}" }"#,
            ],
            &[("a", "colour=red")],
            "a=colour=red colour_is=red$colour",
        );
        check(
            &[r#"{ source_labels = ["a"], target_label = "${1}", replacement = "x" }"#],
            &[("a", "not-a-name")],
            "a=not-a-name",
        );
    }

    #[test]
    fn an_empty_replacement_takes_the_label_away() {
        check(
            &[r#"{ source_labels = ["a"], regex = "foo", target_label = "a", replacement = "" }"#],
            &[("a", "foo")],
            "",
        );
        check(&[r#"{ source_labels = ["nothing"], target_label = "a" }"#], &[("a", "foo")], "");
    }

    #[test]
    fn keep_and_drop_decide_by_the_sources() {
        let keep = r#"{ source_labels = ["a"], regex = "f.*", action = "keep" }"#;
        let drop = r#"{ source_labels = ["a"], regex = "f.*", action = "drop" }"#;
        check(&[keep], &[("a", "foo")], "a=foo");
        check(&[keep], &[("a", "bar")], "-");
        check(&[drop], &[("a", "foo")], "-");
        check(&[drop], &[("a", "bar")], "a=bar");
        check(&[r#"{ source_labels = ["none"], regex = "", action = "drop" }"#], &[("a", "bar")], "-");
    }

    #[test]
    fn keepequal_and_dropequal_compare_with_the_target() {
        let rule =
            |action: &str| format!(r#"{{ source_labels = ["a"], target_label = "b", action = "{action}" }}"#);
        check(&[&rule("keepequal")], &[("a", "x"), ("b", "x")], "a=x b=x");
        check(&[&rule("keepequal")], &[("a", "x"), ("b", "y")], "-");
        check(&[&rule("dropequal")], &[("a", "x"), ("b", "x")], "-");
        check(&[&rule("dropequal")], &[("a", "x"), ("b", "y")], "a=x b=y");
    }

    #[test]
    fn hashmod_is_that_of_prometheus() {
        // By `printf baz | md5sum`: the last sixteen digits as a number, modulo a thousand. Prometheus's own tests expect the same.
        let rule = r#"{ source_labels = ["c"], target_label = "d", action = "hashmod", modulus = 1000 }"#;
        check(&[rule], &[("c", "baz")], "c=baz d=976");
        let rule = r#"{ source_labels = ["a", "b"], target_label = "d", action = "HashMod", modulus = 8 }"#;
        check(&[rule], &[], "d=1");
    }

    #[test]
    fn maps_of_labels_go_by_their_names() {
        let map = r#"{ regex = "meta_(.*)", action = "labelmap" }"#;
        check(&[map], &[("meta_a", "1"), ("b", "2")], "a=1 b=2 meta_a=1");
        let renamed = r#"{ regex = "meta_(.*)", replacement = "x_$1", action = "labelmap" }"#;
        check(&[renamed], &[("meta_a", "1")], "meta_a=1 x_a=1");
        check(&[r#"{ regex = "meta_.*", action = "labeldrop" }"#], &[("meta_a", "1"), ("b", "2")], "b=2");
        check(
            &[r#"{ regex = "meta_.*", action = "labelkeep" }"#],
            &[("meta_a", "1"), ("b", "2")],
            "meta_a=1",
        );
    }

    #[test]
    fn case_is_changed_into_the_target() {
        let rule =
            |action: &str| format!(r#"{{ source_labels = ["a"], target_label = "b", action = "{action}" }}"#);
        check(&[&rule("lowercase"), &rule("uppercase")], &[("a", "bAr")], "a=bAr b=BAR");
        check(&[&rule("lowercase")], &[("a", "bAr123")], "a=bAr123 b=bar123");
    }

    #[test]
    fn rules_go_in_order_and_each_sees_what_the_last_made() {
        check(
            &[
                r#"{ source_labels = ["a"], target_label = "t", replacement = "${1}x" }"#,
                r#"{ source_labels = ["t"], regex = "foox", action = "keep" }"#,
                r#"{ regex = "t", action = "labeldrop" }"#,
            ],
            &[("a", "foo")],
            "a=foo",
        );
    }

    #[track_caller]
    fn check_problems(text: &str, words: &[&str]) {
        let problems = Relabel::parse(text).unwrap_err();
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.contains(words), "{problem:?} lacks {words:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_rule() {
        check_problems("3", &["not a list of tables"]);
        check_problems("[3]", &["not a list of tables"]);
        check_problems("[{ action = ", &["not TOML"]);
        check_problems(
            r#"[{ action = "jump" }, { action = "keep", regex = "(", source_labels = ["a b", 3] }, { action = "hashmod", target_label = "x", modulus = 0 },
                { target_label = "1x" }, { action = "labeldrop", source_labels = ["a"], colour = 1 }, { action = "hashmod", target_label = "a" }]"#,
            &[
                "rule 1: action = \"jump\" is not one of replace, keep",
                "rule 2: source_labels = ",
                "rule 2: regex = \"(\"",
                "rule 3: modulus = 0",
                "rule 4: target_label = \"1x\"",
                "rule 5: labeldrop has no use for colour",
                "rule 5: labeldrop has no use for source_labels",
                "rule 6: hashmod needs a modulus",
            ],
        );
        assert!(Relabel::parse("").unwrap().apply(Pairs::new()).is_some());
    }
}
