//! Which place a request of nginx has, found by its address.

use std::collections::HashMap;

use super::super::symbols::Request;
use super::Number;

/// The numbers of requests at work. Mostly each has an entry of the table to itself; one whose entry
/// is another's is in the map.
pub(super) struct Numbers {
    table: Box<[Option<(Request, Number)>; Self::ENTRIES]>,
    others: HashMap<Request, Number>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            table: Box::new([None; Self::ENTRIES]),
            others: HashMap::new(),
        }
    }
}

impl Numbers {
    /// A power of two.
    const ENTRIES: usize = 256;

    fn entry(&mut self, request: Request) -> &mut Option<(Request, Number)> {
        &mut self.table[Self::entry_of(request)]
    }

    fn entry_of(request: Request) -> usize {
        // The first bits of nginx's addresses are 0, of neighbours the last ones the same.
        let address = request.address() >> 4;
        (address ^ (address >> 8) ^ (address >> 16)) % Self::ENTRIES
    }

    #[inline]
    pub(super) fn get(&self, request: Request) -> Option<Number> {
        match self.table[Self::entry_of(request)] {
            Some((known, number)) if known == request => Some(number),
            _ if self.others.is_empty() => None,
            _ => self.other(request),
        }
    }

    #[cold]
    fn other(&self, request: Request) -> Option<Number> {
        self.others.get(&request).copied()
    }

    pub(super) fn insert(&mut self, request: Request, number: Number) {
        match self.entry(request) {
            Some((other, _)) if *other != request => {
                self.others.insert(request, number);
            }
            entry => *entry = Some((request, number)),
        }
    }

    pub(super) fn remove(&mut self, request: Request) -> Option<Number> {
        match self.entry(request) {
            Some((known, number)) if *known == request => {
                let number = *number;
                *self.entry(request) = None;
                Some(number)
            }
            _ => self.others.remove(&request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: usize) -> Request {
        Request::at(address).unwrap()
    }

    #[test]
    fn many_requests_are_told_apart() {
        let mut numbers = Numbers::default();
        let count = 4 * Numbers::ENTRIES;
        // Some as far apart as pools are, some at addresses that share an entry.
        let address = |n: usize| 0x5600_0000_0000 + (n / 2) * 0x1000 + (n % 2) * 0x10_0000_0000;
        let all = |numbers: &Numbers| {
            (0..count)
                .map(|n| numbers.get(request(address(n))))
                .collect::<Vec<_>>()
        };
        for n in 0..count {
            assert_eq!(numbers.get(request(address(n))), None);
            numbers.insert(request(address(n)), Number::try_from(n).unwrap());
        }
        assert!(!numbers.others.is_empty());
        let wanted: Vec<_> = (0..count)
            .map(|n| Some(Number::try_from(n).unwrap()))
            .collect();
        assert_eq!(all(&numbers), wanted);
        // In another order than they came.
        for n in (0..count).map(|n| n * 7 % count) {
            assert_eq!(numbers.remove(request(address(n))), wanted[n]);
            assert_eq!(numbers.remove(request(address(n))), None);
        }
        assert!(all(&numbers).iter().all(Option::is_none) && numbers.others.is_empty());
    }
}
