//! Finds the ranges that contain a value: a search tree by lower bound, in which each node knows the greatest upper
//! bound below it.
//!
//! It is a treap: random priorities keep its depth near the logarithm of its size, whatever the order of changes. Nodes
//! are in one vector and refer to each other by number.

use std::borrow::Borrow;
use std::cmp::Ordering;

use super::member::Member;

/// A bound of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge<K> {
    /// below all values
    Least,
    /// next to a value
    At(K, Side),
    /// above all values
    Most,
}

/// The side of a value on which a bound is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// just below it
    Below,
    /// just above it
    Above,
}

impl<K> Edge<K> {
    /// Whether the value is above this bound.
    fn is_below<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        match self {
            Edge::Least => true,
            Edge::Most => false,
            Edge::At(bound, side) => match bound.borrow().cmp(value) {
                Ordering::Less => true,
                Ordering::Equal => *side == Side::Below,
                Ordering::Greater => false,
            },
        }
    }
}

/// The ranges of one column.
#[derive(Debug)]
pub struct Ranges<K> {
    nodes: Vec<Node<K>>,
    /// unused nodes
    free: Vec<u32>,
    root: u32,
}

#[derive(Debug)]
struct Node<K> {
    low: Edge<K>,
    high: Edge<K>,
    member: Member,
    priority: u32,
    left: u32,
    right: u32,
    /// the node at or below this one whose upper bound is the greatest
    top: u32,
}

/// No node.
const NONE: u32 = u32::MAX;

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Ranges { nodes: Vec::new(), free: Vec::new(), root: NONE }
    }
}

impl<K: Ord> Ranges<K> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// Adds the range of a member, which must not have another one here.
    pub fn insert(&mut self, low: Edge<K>, high: Edge<K>, member: Member) {
        let node = Node { low, high, member, priority: fastrand::u32(..), left: NONE, right: NONE, top: NONE };
        let new = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.refresh(new);
        let (left, right) = self.split(self.root, new);
        let left = self.merge(left, new);
        self.root = self.merge(left, right);
    }

    /// Removes the range of a member.
    pub fn remove(&mut self, low: &Edge<K>, high: &Edge<K>, member: Member) {
        let mut path = Vec::new();
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            match (low, high, member).cmp(&(&node.low, &node.high, node.member)) {
                Ordering::Less => {
                    path.push(at);
                    at = node.left;
                }
                Ordering::Greater => {
                    path.push(at);
                    at = node.right;
                }
                Ordering::Equal => {
                    let (left, right) = (node.left, node.right);
                    let rest = self.merge(left, right);
                    self.replace(path, at, rest);
                    self.free.push(at);
                    return;
                }
            }
        }
    }

    /// Replaces `old`, to which `path` leads, by `new`.
    fn replace(&mut self, path: Vec<u32>, old: u32, new: u32) {
        match path.last() {
            None => self.root = new,
            Some(&parent) => {
                let parent = &mut self.nodes[parent as usize];
                if parent.left == old {
                    parent.left = new;
                } else {
                    parent.right = new;
                }
            }
        }
        path.into_iter().rev().for_each(|node| self.refresh(node));
    }

    /// Finds the members whose ranges contain the value.
    pub fn holding<Q: Ord + ?Sized>(&self, value: &Q, found: &mut Vec<Member>)
    where
        K: Borrow<Q>,
    {
        self.holding_below(self.root, value, found);
    }

    fn holding_below<Q: Ord + ?Sized>(&self, mut at: u32, value: &Q, found: &mut Vec<Member>)
    where
        K: Borrow<Q>,
    {
        while at != NONE {
            let node = &self.nodes[at as usize];
            // All ranges from here on end before the value.
            if self.nodes[node.top as usize].high.is_below(value) {
                return;
            }
            self.holding_below(node.left, value, found);
            if !node.low.is_below(value) {
                return;
            }
            if !node.high.is_below(value) {
                found.push(node.member);
            }
            at = node.right;
        }
    }

    /// Splits the nodes from `at` into those before the node `pivot` and those after it.
    fn split(&mut self, at: u32, pivot: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if self.key(at) < self.key(pivot) {
            let (left, right) = self.split(self.nodes[at as usize].right, pivot);
            self.nodes[at as usize].right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.nodes[at as usize].left, pivot);
            self.nodes[at as usize].left = right;
            self.refresh(at);
            (left, at)
        }
    }

    /// Merges two trees, where all of `left` is before `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.nodes[left as usize].priority >= self.nodes[right as usize].priority {
            let inner = self.nodes[left as usize].right;
            self.nodes[left as usize].right = self.merge(inner, right);
            self.refresh(left);
            left
        } else {
            let inner = self.nodes[right as usize].left;
            self.nodes[right as usize].left = self.merge(left, inner);
            self.refresh(right);
            right
        }
    }

    fn key(&self, node: u32) -> (&Edge<K>, &Edge<K>, Member) {
        let node = &self.nodes[node as usize];
        (&node.low, &node.high, node.member)
    }

    /// Computes again which node at or below this one reaches furthest.
    fn refresh(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let mut top = at;
        for child in [node.left, node.right] {
            if child != NONE {
                let below = self.nodes[child as usize].top;
                if self.nodes[below as usize].high > self.nodes[top as usize].high {
                    top = below;
                }
            }
        }
        self.nodes[at as usize].top = top;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = Edge<i32>> {
        prop_oneof![
            1 => Just(Edge::Least),
            1 => Just(Edge::Most),
            6 => (0..20, any::<bool>())
                .prop_map(|(at, above)| Edge::At(at, if above { Side::Above } else { Side::Below })),
        ]
    }

    proptest! {
        #[test]
        fn the_same_as_looking_at_each(
            steps in prop::collection::vec((edge(), edge(), any::<bool>()), 1..80),
            values in prop::collection::vec(-1..22, 1..10),
        ) {
            let mut ranges = Ranges::default();
            let mut model: Vec<(Edge<i32>, Edge<i32>, Member)> = Vec::new();
            for (age, (low, high, removes)) in (0..).zip(steps) {
                if removes && !model.is_empty() {
                    let (low, high, member) = model.swap_remove(age as usize % model.len());
                    ranges.remove(&low, &high, member);
                } else {
                    let member = Member { age, place: 0 };
                    ranges.insert(low.clone(), high.clone(), member);
                    model.push((low, high, member));
                }
                for value in &values {
                    let mut found = Vec::new();
                    ranges.holding(value, &mut found);
                    found.sort_unstable();
                    let holds = |(low, high, _): &&(Edge<i32>, Edge<i32>, Member)| {
                        low.is_below(value) && !high.is_below(value)
                    };
                    let mut expected: Vec<Member> = model.iter().filter(holds).map(|(.., member)| *member).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
            for (low, high, member) in &model {
                ranges.remove(low, high, *member);
            }
            prop_assert!(ranges.is_empty());
        }
    }
}
