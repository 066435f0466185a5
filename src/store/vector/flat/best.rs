//! The `k` highest of many values, as they come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub struct Best {
    k: usize,
    values: BinaryHeap<Reverse<Ordered>>,
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self { k, values: BinaryHeap::new() }
    }

    /// The k-th highest value, once there are k.
    pub fn floor(&self) -> Option<f32> {
        if self.values.len() < self.k { None } else { self.values.peek().map(|value| value.0.0) }
    }

    pub fn offer(&mut self, value: f32) {
        if self.values.len() < self.k {
            self.values.push(Reverse(Ordered(value)));
        } else if let Some(mut lowest) = self.values.peek_mut()
            && value > lowest.0.0
        {
            *lowest = Reverse(Ordered(value));
        }
    }
}

/// f32 in its total order.
#[derive(Debug, Clone, Copy)]
pub struct Ordered(pub f32);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_kth_highest_once_there_are_k() {
        let mut best = Best::new(3);
        for (value, floor) in
            [(0.1, None), (0.5, None), (0.3, Some(0.1)), (0.2, Some(0.2)), (0.1, Some(0.2)), (0.9, Some(0.3))]
        {
            best.offer(value);
            assert_eq!(best.floor(), floor);
        }
    }
}
