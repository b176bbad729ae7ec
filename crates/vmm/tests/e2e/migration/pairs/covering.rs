//! Few cases in which all pairs are.

use std::cmp::Reverse;

/// A value of one property and a value of another.
type Pair = ((usize, usize), (usize, usize));

/// Cases in which every value of each property meets every value of every other one at least once. `values` says how many each
/// property has; a case is the number of a value for each. `excludes` says which pairs cannot be. The same for the same, always.
pub(super) fn covering(values: &[usize], excludes: impl Fn(Pair) -> bool) -> Vec<Vec<usize>> {
    let mut missing: Vec<Pair> = pairs(values).filter(|pair| !excludes(*pair)).collect();
    let mut cases = Vec::new();
    while let Some(&((one, of_one), (other, of_other))) = missing.first() {
        let mut case = vec![None; values.len()];
        (case[one], case[other]) = (Some(of_one), Some(of_other));
        for property in 0..values.len() {
            if case[property].is_some() {
                continue;
            }
            // The value that has most pairs that are missing still, among those that go with what is there.
            let meets = |value: usize| {
                let with = |(other, of_other): (usize, Option<usize>)| {
                    let met = (property, value);
                    of_other.map(|of_other| ordered(met, (other, of_other)))
                };
                case.iter().copied().enumerate().filter_map(with).collect::<Vec<_>>()
            };
            let fits = |value: &usize| !meets(*value).into_iter().any(&excludes);
            let gains = |value: &usize| {
                let at_hand = meets(*value).iter().filter(|pair| missing.contains(pair)).count();
                let ahead = missing.iter().filter(|(one, other)| [one, other].contains(&&(property, *value)));
                let before = cases.iter().filter(|case: &&Vec<usize>| case[property] == *value).count();
                (at_hand, ahead.count(), Reverse(before))
            };
            case[property] = (0..values[property]).filter(fits).max_by_key(gains);
        }
        let case: Vec<usize> =
            case.into_iter().map(|value| value.expect("some value goes with all")).collect();
        let before = missing.len();
        missing
            .retain(|((one, of_one), (other, of_other))| case[*one] != *of_one || case[*other] != *of_other);
        assert!(missing.len() < before, "{case:?} has no pair that was missing");
        cases.push(case);
    }
    cases
}

fn pairs(values: &[usize]) -> impl Iterator<Item = Pair> {
    let all =
        (0..values.len()).flat_map(|property| (0..values[property]).map(move |value| (property, value)));
    let all: Vec<_> = all.collect();
    let with = move |first: usize| {
        let (one, others) = (all[first], all[first + 1..].to_vec());
        others.into_iter().filter(move |other| other.0 != one.0).map(move |other| (one, other))
    };
    (0..values.iter().sum()).flat_map(with)
}

fn ordered(one: (usize, usize), other: (usize, usize)) -> Pair {
    if one.0 < other.0 { (one, other) } else { (other, one) }
}

#[test]
fn every_pair_that_can_be_is_in_a_case_and_no_other() {
    let values = [3, 2, 4, 2, 3];
    let excludes = |pair: Pair| pair == ((0, 2), (2, 3));
    let cases = covering(&values, excludes);
    for ((one, of_one), (other, of_other)) in pairs(&values) {
        let is_there = cases.iter().any(|case| case[one] == of_one && case[other] == of_other);
        assert_eq!(
            is_there,
            !excludes(((one, of_one), (other, of_other))),
            "{one}={of_one} {other}={of_other}"
        );
    }
    assert!(cases.len() < 20, "{} cases", cases.len());
}
