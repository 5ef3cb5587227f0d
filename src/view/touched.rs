//! Rows in the order of their last message, for EXPIRE and MAX_ROWS.
//!
//! Rows have small numbers, so the order is a linked list in a vector: 16 bytes a row.

/// The end of the list.
const NONE: u32 = u32::MAX;
/// The place of a number that is not in the list.
const ABSENT: u32 = u32::MAX - 1;

/// Numbers in the order in which they were touched last.
#[derive(Debug)]
pub struct Touched {
    /// by number
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    /// when it was touched, ms
    at: i64,
    newer: u32,
    older: u32,
}

impl Default for Touched {
    fn default() -> Touched {
        Touched { links: Vec::new(), newest: NONE, oldest: NONE, len: 0 }
    }
}

impl Touched {
    /// The number of entries in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a number at the newest end.
    pub fn touch(&mut self, number: u32, at: i64) {
        let place = number as usize;
        if place >= self.links.len() {
            self.links.resize(place + 1, Link { at: 0, newer: ABSENT, older: NONE });
        }
        self.links[place].at = at;
        if self.newest == number {
            return;
        }
        if self.contains(number) {
            self.unlink(number);
        } else {
            self.len += 1;
        }
        let older = std::mem::replace(&mut self.newest, number);
        let link = &mut self.links[place];
        (link.newer, link.older) = (NONE, older);
        match older {
            NONE => self.oldest = number,
            older => self.links[older as usize].newer = number,
        }
    }

    /// Removes a number.
    pub fn forget(&mut self, number: u32) {
        if self.contains(number) {
            self.unlink(number);
            self.links[number as usize].newer = ABSENT;
            self.len -= 1;
        }
    }

    /// The number that was touched longest ago, and when that was, ms.
    pub fn oldest(&self) -> Option<(u32, i64)> {
        (self.oldest != NONE).then(|| (self.oldest, self.links[self.oldest as usize].at))
    }

    /// All numbers with the time of their last touch, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, i64)> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let number = next;
            let link = self.links.get(number as usize)?;
            next = link.newer;
            Some((number, link.at))
        })
    }

    /// Bytes of the list.
    pub fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
    }

    fn contains(&self, number: u32) -> bool {
        self.links.get(number as usize).is_some_and(|link| link.newer != ABSENT)
    }

    fn unlink(&mut self, number: u32) {
        let Link { newer, older, .. } = self.links[number as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_last_touches() {
        let (mut touched, mut naive) = (Touched::default(), Vec::<(u32, i64)>::new());
        let mut random = fastrand::Rng::with_seed(7);
        for at in 0..3_000 {
            let number = random.u32(0..20);
            naive.retain(|(known, _)| *known != number);
            if random.u8(0..3) == 0 {
                touched.forget(number);
            } else {
                touched.touch(number, at);
                naive.push((number, at));
            }
            assert_eq!(touched.iter().collect::<Vec<_>>(), naive);
            assert_eq!((touched.oldest(), touched.len()), (naive.first().copied(), naive.len()));
        }
    }
}
