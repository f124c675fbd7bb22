//! The two forms of time in certificates, as text and as a number.

use crate::der::tag;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month, day, hour, minute, second; all in their ranges.
type Moment = [u16; 6];

fn parse((kind, content): (u8, &[u8])) -> Option<Moment> {
    let digits = content.strip_suffix(b"Z")?;
    let year_digits = match kind {
        tag::UTC_TIME => 2,
        tag::GENERALIZED_TIME => 4,
        _ => return None,
    };
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().fold(0_u16, |number, digit| number * 10 + u16::from(digit - b'0'))
    };
    let (year, rest) = digits.split_at(year_digits);
    let year = match (kind, number(year)) {
        // RFC 5280, 4.1.2.5.1
        (tag::UTC_TIME, year @ 50..) => 1900 + year,
        (tag::UTC_TIME, year) => 2000 + year,
        (_, year) => year,
    };
    let mut moment = [year, 0, 0, 0, 0, 0];
    for (field, pair) in moment[1..].iter_mut().zip(rest.chunks_exact(2)) {
        *field = number(pair);
    }
    let [_, month, day, hour, minute, second] = moment;
    let is_valid = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    is_valid.then_some(moment)
}

fn days_of(year: u16, month: u16) -> u16 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// A time as OpenSSL prints it, such as `Jan  5 09:34:43 2018 GMT`.
pub(super) fn printed(time: (u8, &[u8])) -> Option<String> {
    let [year, month, day, hour, minute, second] = parse(time)?;
    let month = MONTHS[usize::from(month) - 1];
    Some(format!("{month} {day:2} {hour:02}:{minute:02}:{second:02} {year} GMT"))
}

/// A time as seconds since 1970 began; times before that are negative.
pub(crate) fn seconds_since_epoch(time: (u8, &[u8])) -> Option<i64> {
    let [year, month, day, hour, minute, second] = parse(time)?;
    let year_number = i64::from(year);
    let leap_days_before = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let days_before_year =
        year_number * 365 + leap_days_before(year_number) - (1970 * 365 + leap_days_before(1970));
    let days_before_month: u16 = (1..month).map(|month| days_of(year, month)).sum();
    let days = days_before_year + i64::from(days_before_month) + i64::from(day) - 1;
    Some(((days * 24 + i64::from(hour)) * 60 + i64::from(minute)) * 60 + i64::from(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTC: fn(&'static [u8]) -> (u8, &'static [u8]) = |text| (tag::UTC_TIME, text);
    const GENERALIZED: fn(&'static [u8]) -> (u8, &'static [u8]) =
        |text| (tag::GENERALIZED_TIME, text);

    #[test]
    fn times_are_printed_as_openssl_does() {
        let printed_time = printed(UTC(b"180105093443Z"));
        assert_eq!(printed_time.as_deref(), Some("Jan  5 09:34:43 2018 GMT"));
        let printed_time = printed(GENERALIZED(b"20501231235959Z"));
        assert_eq!(printed_time.as_deref(), Some("Dec 31 23:59:59 2050 GMT"));
        assert_eq!(printed(UTC(b"180105093443+0100")), None);
        assert_eq!(printed(UTC(b"180230093443Z")), None);
    }

    #[test]
    fn times_are_counted_from_1970() {
        assert_eq!(seconds_since_epoch(UTC(b"700101000000Z")), Some(0));
        assert_eq!(seconds_since_epoch(UTC(b"000301000000Z")), Some(951_868_800));
        assert_eq!(seconds_since_epoch(UTC(b"500101000000Z")), Some(-631_152_000));
        assert_eq!(seconds_since_epoch(GENERALIZED(b"21000301000000Z")), Some(4_107_542_400));
    }
}
