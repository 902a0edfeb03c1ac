//! How numbers are written in tables.

/// Answers a second, with thousands set apart.
pub fn rate(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time.
pub fn ms(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.3} ms"),
        value if value < 10.0 => format!("{value:.2} ms"),
        value => format!("{value:.0} ms"),
    }
}

/// A relation of two numbers.
pub fn ratio(value: f64, to: f64) -> String {
    times(value / to)
}

/// A relation.
pub fn times(value: f64) -> String {
    format!("{value:.2}")
}

/// A part of all.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([7.2, 999.0, 1_000.0, 1_234_567.0].map(rate), ["7", "999", "1,000", "1,234,567"]);
    }
}
