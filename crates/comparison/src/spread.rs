use serde::Serialize;

/// What repetitions make of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least of them.
    pub least: f64,
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The most of them.
    pub most: f64,
}

/// `None` if there are no samples, or not every one has the figure.
pub fn spread<T>(samples: &[T], of: impl Fn(&T) -> Option<f64>) -> Option<Spread> {
    let mut values = samples.iter().map(of).collect::<Option<Vec<_>>>()?;
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.as_slice() {
        [] => return None,
        values if values.len() % 2 == 1 => values[middle],
        values => (values[middle - 1] + values[middle]) / 2.0,
    };
    Some(Spread { least: values[0], median, most: values[values.len() - 1] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |values: &[f64]| spread(values, |value| Some(*value)).map(|spread| spread.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_figure_that_is_missing_once_is_not_shown() {
        assert_eq!(spread(&[1.0, -1.0], |value| (*value > 0.0).then_some(*value)), None);
    }
}
