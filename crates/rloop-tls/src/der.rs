//! A reader of DER, as much of it as certificates need.
//!
//! It never panics and never reads past its input, whatever the input is: the fuzz target
//! `certificate` holds it to that. What it cannot read is `None`; the caller decides what that means,
//! and where trust is concerned it means no.

/// Tags that certificates contain.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const T61_STRING: u8 = 0x14;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const VISIBLE_STRING: u8 = 0x1a;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[number]` of a primitive type.
    pub(crate) const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// `[number]` of a constructed type.
    pub(crate) const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// One value: its tag, its content, and both together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag, length and content, as they stand in the input.
    pub(crate) encoded: &'a [u8],
}

impl<'a> Value<'a> {
    /// The values inside.
    pub(crate) fn inside(self) -> Reader<'a> {
        Reader::new(self.content)
    }
}

/// Reads values one after another.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next value.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value, whatever it is. `None` at the end and where no value can be read.
    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.rest.split_first()?;
        if tag & 0x1f == 0x1f {
            // Tags of several bytes: certificates have none.
            return None;
        }
        let (len, rest) = length(rest)?;
        let (content, after) = rest.split_at_checked(len)?;
        let encoded = &self.rest[..self.rest.len() - after.len()];
        self.rest = after;
        Some(Value { tag, content, encoded })
    }

    /// The next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        if self.peek()? == tag { self.value() } else { None }
    }

    /// The next value if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Value<'a>> {
        self.expect(tag)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.value()
    }
}

/// A length of the definite form, and what follows it.
fn length(input: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        return Some((usize::from(first), rest));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let (bytes, rest) = rest.split_at_checked(count)?;
    let len = bytes.iter().fold(0_usize, |len, &byte| len << 8 | usize::from(byte));
    Some((len, rest))
}

/// An object identifier in dotted decimal.
pub(crate) fn dotted(content: &[u8]) -> Option<String> {
    if content.last()? & 0x80 != 0 {
        return None;
    }
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc: u64 = 0;
    for &byte in content {
        if arc >> 57 != 0 {
            return None;
        }
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let root = (arc / 40).min(2);
                arcs.push(root);
                arc -= root * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    Some(arcs.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
}

/// The bits of a BIT STRING of at most 16 bits, first bit highest; missing ones are 0.
pub(crate) fn bits(content: &[u8]) -> Option<u16> {
    let (&unused, bytes) = content.split_first()?;
    if unused > 7 || (bytes.is_empty() && unused > 0) {
        return None;
    }
    let byte = |index: usize| bytes.get(index).copied().unwrap_or(0);
    Some(u16::from_be_bytes([byte(0), byte(1)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_read_one_after_another() {
        let input = [0x02, 0x01, 0x05, 0x04, 0x81, 0x02, 0xaa, 0xbb];
        let mut reader = Reader::new(&input);
        assert_eq!(reader.expect(tag::INTEGER).unwrap().content, [5]);
        assert_eq!(reader.expect(tag::INTEGER), None);
        let value = reader.value().unwrap();
        assert_eq!((value.tag, value.content), (tag::OCTET_STRING, &[0xaa, 0xbb][..]));
        assert_eq!(value.encoded, &input[3..]);
        assert!(reader.is_at_end());
    }

    #[test]
    fn a_value_longer_than_the_input_is_none() {
        assert_eq!(Reader::new(&[0x04, 0x05, 1, 2]).value(), None);
        assert_eq!(Reader::new(&[0x04, 0x80]).value(), None);
        assert_eq!(Reader::new(&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).value(), None);
    }

    #[test]
    fn identifiers_are_dotted() {
        assert_eq!(dotted(&[0x55, 0x04, 0x03]).as_deref(), Some("2.5.4.3"));
        assert_eq!(
            dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]).as_deref(),
            Some("1.2.840.113549")
        );
        assert_eq!(dotted(&[0x88, 0x37]).as_deref(), Some("2.999"));
        assert_eq!(dotted(&[0x55, 0x84]), None);
        assert_eq!(dotted(&[]), None);
    }

    proptest! {
        #[test]
        fn nothing_is_read_past_the_end(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let total: usize = Reader::new(&input).map(|value| value.encoded.len()).sum();
            prop_assert!(total <= input.len());
            let _text = dotted(&input);
            let _bits = bits(&input);
        }
    }
}
