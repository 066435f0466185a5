//! How the threads share a batch.
//!
//! One short prompt, or a few: all threads work on all of it, take columns of a layer one lot at a time, and wait for one
//! another between the steps. More than that: each thread takes groups of sequences through the whole model by itself, and
//! waits for nobody.

use std::cmp::Reverse;

use crate::embed::Input;

/// Tokens of a group, about. Enough that weights are read once for many rows, few enough that a group's activations stay
/// in the second-level cache.
const GROUP: usize = 64;
/// Tokens per thread from which groups pay: below, reading the weights once together saves more than waiting costs.
const APART: usize = 32;
/// How much more than its share the busiest thread may have to do.
const IMBALANCE: f32 = 1.2;

/// Sequences that go through the model together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Group {
    pub sequences: Vec<Sequence>,
    pub tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Its place in the batch.
    pub index: usize,
    /// Its first row in the group.
    pub start: usize,
    pub len: usize,
}

/// Reused from batch to batch, so that planning allocates nothing.
#[derive(Debug, Default)]
pub struct Plan {
    groups: Vec<Group>,
    used: usize,
    order: Vec<usize>,
    loads: Vec<usize>,
}

impl Plan {
    /// Largest first.
    pub fn groups(&self) -> &[Group] {
        &self.groups[..self.used]
    }

    /// Whether all threads work on the one group there is.
    pub fn is_together(&self) -> bool {
        self.used == 1
    }

    /// No sequence of `batch` is empty. `threads`: at least one.
    pub fn make(&mut self, batch: &[Input], threads: usize) {
        let total: usize = batch.iter().map(|input| input.ids.len()).sum();
        let each = total.div_ceil(threads);
        // As many groups as threads can take in turns, so that all end at about the same time.
        let turns = each.div_ceil(GROUP).max(1);
        self.divide(batch, turns * threads);
        let busiest = self.busiest(threads);
        if threads > 1 && (each < APART || busiest as f32 > each as f32 * IMBALANCE) {
            self.divide(batch, 1);
        }
    }

    /// Tokens of the thread with most to do, when each takes the next group as soon as it is free.
    fn busiest(&mut self, threads: usize) -> usize {
        self.loads.clear();
        self.loads.resize(threads, 0);
        for group in &self.groups[..self.used] {
            if let Some(least) = self.loads.iter_mut().min() {
                *least += group.tokens;
            }
        }
        self.loads.iter().copied().max().unwrap_or(0)
    }

    /// The longest sequences first, each to the group that has least.
    fn divide(&mut self, batch: &[Input], groups: usize) {
        self.order.clear();
        self.order.extend(0..batch.len());
        if groups > 1 {
            self.order.sort_unstable_by_key(|&index| (Reverse(batch[index].ids.len()), index));
        }
        self.used = groups.min(batch.len());
        self.groups.resize_with(self.groups.len().max(self.used), Group::default);
        let groups = &mut self.groups[..self.used];
        for group in groups.iter_mut() {
            group.sequences.clear();
            group.tokens = 0;
        }
        for &index in &self.order {
            let Some(group) = groups.iter_mut().min_by_key(|group| group.tokens) else { return };
            let len = batch[index].ids.len();
            group.sequences.push(Sequence { index, start: group.tokens, len });
            group.tokens += len;
        }
        groups.sort_unstable_by_key(|group| Reverse(group.tokens));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(lengths: &[usize], threads: usize) -> Plan {
        let mut plan = Plan::default();
        make(&mut plan, lengths, threads);
        plan
    }

    fn make(plan: &mut Plan, lengths: &[usize], threads: usize) {
        let ids = [0; 300];
        plan.make(&lengths.iter().map(|len| Input::text(&ids[..*len])).collect::<Vec<_>>(), threads);
    }

    #[test]
    fn few_tokens_are_worked_on_together_and_many_apart() {
        assert!(plan(&[9], 2).is_together());
        assert!(plan(&[9, 8, 12], 2).is_together());
        assert!(plan(&[256], 2).is_together(), "one long text cannot be divided");
        assert!(plan(&[200, 10, 10], 2).is_together(), "one thread would wait for the other");
        assert_eq!(plan(&[50, 50], 2).groups().len(), 2);
        assert_eq!(plan(&[16; 32], 2).groups().len(), 8);
        assert_eq!(plan(&[16; 32], 1).groups().len(), 8);
        assert_eq!(plan(&[128; 4], 2).groups().len(), 4, "long texts are groups of their own");
        assert_eq!(plan(&[237, 200, 150, 90, 40, 40, 30], 2).groups().len(), 7);
    }

    proptest! {
        #[test]
        fn every_sequence_is_in_one_group_at_a_place_of_its_own(
            lengths in prop::collection::vec(1usize..300, 1..80),
            threads in 1usize..9,
        ) {
            let mut plan = Plan::default();
            make(&mut plan, &[7; 40], threads); // what an earlier batch left behind does not show
            make(&mut plan, &lengths, threads);
            let mut seen = vec![0; lengths.len()];
            for group in plan.groups() {
                let mut next = 0;
                for sequence in &group.sequences {
                    prop_assert_eq!((sequence.start, sequence.len), (next, lengths[sequence.index]));
                    (next, seen[sequence.index]) = (next + sequence.len, seen[sequence.index] + 1);
                }
                prop_assert!(next > 0 && next == group.tokens);
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
