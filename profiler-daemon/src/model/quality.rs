//! How good the stacks of a profile are, as a figure.
//!
//! In: stacks whose frames have names, or reasons. Out: how much of their weight is whole, cut, and without a name somewhere.
//! Not here: how a walk ended. Whoever cut a stack has put a reason at its root, and that is all that counts here, as it is all
//! that a reader of the profile sees.

use std::collections::BTreeMap;

use super::{Known, Profile, Reason, Weight};

/// Weight of stacks. Whole and cut ones together are all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Stacks from their root on: the outermost frame is code.
    pub whole: Weight,
    /// Stacks that lack what lies outside of some frame: the outermost one is a reason.
    pub cut: BTreeMap<Reason, Weight>,
    /// Stacks, whole or cut, with a frame that no name was found for. The reason at the root of a cut one is not meant: it
    /// stands for what is not there.
    pub unnamed: Weight,
}

impl Quality {
    /// Of all stacks of `profile`.
    pub fn of(profile: &Profile) -> Self {
        // A function is in many stacks.
        let known: Vec<Known> = profile.functions.iter().map(|function| function.known).collect();
        let mut quality = Self::default();
        for stack in &profile.stacks {
            quality.add(stack.functions.iter().map(|index| known[index.0 as usize]), stack.weight);
        }
        quality
    }

    /// Adds a stack by what is known of its frames, leaf first. One without frames is whole.
    fn add(&mut self, frames: impl DoubleEndedIterator<Item = Known>, weight: Weight) {
        let mut inwards = frames.rev();
        let root = inwards.next().unwrap_or(Known::Name);
        match root {
            Known::Name | Known::Place => self.whole += weight,
            Known::Nothing(reason) => *self.cut.entry(reason).or_default() += weight,
        }
        if root == Known::Place || inwards.any(|known| known != Known::Name) {
            self.unnamed += weight;
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        let Self { whole, cut, unnamed } = other;
        self.whole += *whole;
        for (&reason, &weight) in cut {
            *self.cut.entry(reason).or_default() += weight;
        }
        self.unnamed += *unnamed;
    }

    /// All of it.
    pub fn weight(&self) -> Weight {
        self.whole + self.cut.values().copied().sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Function, FunctionIndex, Labels, SampleKind, Stack};
    use crate::time::{WallNs, Window};

    const FUNCTIONS: [(&str, Known); 6] = [
        ("main", Known::Name),
        ("f", Known::Name),
        ("lib.so+0x10", Known::Place),
        ("[no frame pointer]", Known::Nothing(Reason::NoFramePointer)),
        ("[anonymous code]", Known::Nothing(Reason::AnonymousMapping)),
        ("[stack too deep]", Known::Nothing(Reason::StackTooDeep)),
    ];

    fn profile(stacks: &[(&str, u64)]) -> Profile {
        let function = |&(name, known): &(&str, Known)| {
            let (file, module) = ("".into(), "".into());
            Arc::new(Function { name: name.into(), file, line: 0, module, kernel: false, known })
        };
        let index = |name: &str| {
            let position = FUNCTIONS.iter().position(|&(known, _)| known == name);
            FunctionIndex(u32::try_from(position.expect("a function above")).expect("a few"))
        };
        let stack = |&(text, weight): &(&str, u64)| Stack {
            functions: text.split(';').filter(|name| !name.is_empty()).rev().map(index).collect(),
            weight: Weight(weight),
            tag: None,
        };
        Profile {
            window: Window { start: WallNs(0), duration_ns: 1 },
            kind: SampleKind::CpuTime { period_ns: 1 },
            labels: Arc::new(Labels::default()),
            functions: FUNCTIONS.iter().map(function).collect(),
            stacks: stacks.iter().map(stack).collect(),
        }
    }

    /// Stacks, root first, come to `whole`, the weights `cut` by reason, and `unnamed`.
    #[track_caller]
    fn check(stacks: &[(&str, u64)], whole: u64, cut: &[(Reason, u64)], unnamed: u64) {
        let profile = profile(stacks);
        let quality = Quality::of(&profile);
        let cut = cut.iter().map(|&(reason, weight)| (reason, Weight(weight))).collect();
        assert_eq!(quality, Quality { whole: Weight(whole), cut, unnamed: Weight(unnamed) });
        assert_eq!(quality.weight(), profile.weight(), "weight in is weight out");
    }

    #[test]
    fn a_stack_from_code_to_code_is_whole() {
        check(&[("main;f", 3), ("main", 2)], 5, &[], 0);
    }

    #[test]
    fn a_reason_at_the_root_cuts_a_stack() {
        check(
            &[
                ("main;f", 3),
                ("[no frame pointer];f", 2),
                ("[no frame pointer];main", 4),
                ("[stack too deep];f", 1),
            ],
            3,
            &[(Reason::NoFramePointer, 6), (Reason::StackTooDeep, 1)],
            0,
        );
    }

    #[test]
    fn a_stack_of_nothing_but_a_reason_is_cut() {
        check(&[("[stack too deep]", 1)], 0, &[(Reason::StackTooDeep, 1)], 0);
    }

    #[test]
    fn a_place_without_a_name_leaves_a_stack_whole_but_unnamed() {
        check(&[("main;lib.so+0x10", 1), ("lib.so+0x10;f", 2), ("lib.so+0x10", 4), ("main", 8)], 15, &[], 7);
    }

    #[test]
    fn a_reason_below_the_root_is_a_frame_without_a_name() {
        check(&[("main;[anonymous code];f", 2)], 2, &[], 2);
        check(&[("[no frame pointer];[anonymous code]", 2)], 0, &[(Reason::NoFramePointer, 2)], 2);
    }

    #[test]
    fn a_stack_counts_once_however_many_frames_have_no_name() {
        check(&[("lib.so+0x10;lib.so+0x10;[anonymous code]", 5)], 5, &[], 5);
    }

    #[test]
    fn nothing_has_no_quality() {
        check(&[], 0, &[], 0);
        check(&[("", 1)], 1, &[], 0);
    }

    #[test]
    fn what_is_merged_is_what_is_counted_together() {
        let (one, two) =
            ([("main;f", 3), ("[no frame pointer];f", 2)], [("[no frame pointer];lib.so+0x10", 5)]);
        let mut merged = Quality::of(&profile(&one));
        merged.merge(&Quality::of(&profile(&two)));
        assert_eq!(merged, Quality::of(&profile(&[one[0], one[1], two[0]])));
    }
}
