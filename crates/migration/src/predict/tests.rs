use super::*;
use crate::{ByWhen, Steps, Throttling};

/// 1 GiB, a quarter of it empty, at 100 MB/s.
const LINK: Link = Link { bytes_per_second: 1e8, is_encrypted: false };

fn machine(rate: f64, working_set: f64) -> Machine {
    let dirtying = (rate > 0.0).then(|| Pattern { working_set, hazard: rate / working_set });
    Machine { pages: 262_144, empty: 65_536, dirtying, packed: 1.0, vcpus: 1 }
}

fn told(machine: &Machine, params: &Params) -> Prediction {
    predict(machine, &LINK, params, &FixedCosts::guess(1))
}

fn by(prediction: &Prediction, mode: Mode) -> &Forecast {
    prediction.forecasts.iter().find(|forecast| forecast.mode == mode).unwrap()
}

fn computed() -> Throttling {
    Throttling::Computed { max: 0.99 }
}

#[test]
fn a_machine_at_rest_takes_as_long_as_its_memory_on_the_wire() {
    let prediction = told(&machine(0.0, 0.0), &Params::default());
    let precopy = by(&prediction, Mode::Precopy);
    assert_eq!(prediction.choice, Mode::Precopy);
    assert!(precopy.ends && (8.0..8.3).contains(&precopy.total.as_secs_f64()), "{precopy:?}");
    assert!((8.0e8..8.2e8).contains(&precopy.bytes) && precopy.loss == 0.0, "{precopy:?}");
    assert!(precopy.downtime < Duration::from_millis(5), "{precopy:?}");
}

#[test]
fn encryption_takes_cpu_time_and_nothing_else() {
    let cpu = |is_encrypted| {
        let link = Link { is_encrypted, ..LINK };
        let prediction = predict(&machine(0.0, 0.0), &link, &Params::default(), &FixedCosts::guess(1));
        let precopy = by(&prediction, Mode::Precopy);
        (precopy.cpu.as_secs_f64(), precopy.total)
    };
    let ((clear, total), (encrypted, same)) = (cpu(false), cpu(true));
    assert!(encrypted > 2.0 * clear && total == same, "{clear} {encrypted}");
}

#[test]
fn packing_and_a_limit_are_counted() {
    let packed = Machine { packed: 0.25, ..machine(0.0, 0.0) };
    let total =
        |machine: &Machine, params: &Params| by(&told(machine, params), Mode::Precopy).total.as_secs_f64();
    assert!((2.0..2.1).contains(&total(&packed, &Params::default())));
    assert!((16.0..16.6).contains(&total(&machine(0.0, 0.0), &Params::default().max_bandwidth(50_000_000))));
}

#[test]
fn a_machine_that_is_dirtied_slowly_comes_to_an_end_within_the_limit() {
    let calm = machine(5_000.0, 60_000.0);
    let prediction = told(&calm, &Params::default());
    let precopy = by(&prediction, Mode::Precopy);
    assert_eq!(prediction.choice, Mode::Precopy);
    assert!(precopy.ends && precopy.total > Duration::from_millis(8500), "{precopy:?}");
    assert!(precopy.downtime <= Params::default().downtime_limit, "{precopy:?}");
    let idle = told(&machine(0.0, 0.0), &Params::default());
    assert!(precopy.bytes > by(&idle, Mode::Precopy).bytes && precopy.loss > 0.0, "{precopy:?}");
}

#[test]
fn where_rounds_do_not_end_it_is_said_what_would() {
    let busy = machine(60_000.0, 100_000.0);
    let prediction = told(&busy, &Params::default());
    assert!(!by(&prediction, Mode::Precopy).ends);
    assert!(prediction.reason.starts_with("It does not end as it is set"), "{}", prediction.reason);
    assert!(prediction.reason.contains("throttle, postcopy"), "{}", prediction.reason);
    assert_eq!(by(&prediction, Mode::Postcopy).forbidden, "postcopy-ram is off");
    let postcopy = told(&busy, &Params::default().postcopy(Postcopy::Auto));
    assert_eq!(postcopy.choice, Mode::Postcopy);
    let throttled = told(&busy, &Params::default().throttling(computed()));
    assert_eq!(throttled.choice, Mode::Throttle);
    let (slow, follows) = (by(&throttled, Mode::Throttle), by(&postcopy, Mode::Postcopy));
    assert!(slow.ends && slow.loss > 0.2 && slow.total > follows.total, "{slow:?} {follows:?}");
    assert!(follows.downtime < Duration::from_millis(5), "{follows:?}");
}

#[test]
fn a_deadline_takes_the_first_means_of_the_order_that_is_enough() {
    let busy = machine(60_000.0, 100_000.0);
    let by_when = |deadline, means: &[Means]| {
        Some(ByWhen {
            deadline: Duration::from_secs(deadline),
            means: means.to_vec(),
            longest_downtime: Duration::from_secs(2),
        })
    };
    let params = Params::default().postcopy(Postcopy::OnRequest).throttling(computed());
    let choice = |deadline, means: &[Means]| told(&busy, &params.clone().by_when(by_when(deadline, means)));
    assert_eq!(choice(600, &[Means::Throttle, Means::Postcopy]).choice, Mode::Throttle);
    assert_eq!(choice(600, &[Means::Postcopy, Means::Throttle]).choice, Mode::Postcopy);
    let soon = choice(14, &[Means::Throttle, Means::Postcopy]);
    assert_eq!(soon.choice, Mode::Postcopy, "{soon:?}");
    let late = choice(5, &[Means::Throttle, Means::Postcopy]);
    assert!(late.reason.starts_with("No means that is allowed"), "{late:?}");
    let none = choice(600, &[]);
    assert_eq!(by(&none, Mode::Throttle).forbidden, "whimbrel-means leaves it out");
}

#[test]
fn steps_of_qemus_are_a_throttle_too() {
    let steps =
        Throttling::Steps(Steps { initial: 20, increment: 10, max: 99, tailslow: false, trigger: 50 });
    let prediction = told(&machine(60_000.0, 100_000.0), &Params::default().throttling(steps));
    assert_eq!(prediction.choice, Mode::Throttle);
}

#[test]
fn odd_figures_do_no_harm() {
    for pages in [0, 1, u64::MAX] {
        for rate in [0.0, 1e-300, 1e300] {
            for bytes_per_second in [0.0, -1.0, 1e-300, 1e300, f64::NAN] {
                let dirtying = Some(Pattern { working_set: rate, hazard: rate });
                let machine = Machine { pages, empty: u64::MAX, dirtying, packed: rate, vcpus: 0 };
                let params = Params::default().postcopy(Postcopy::Immediate);
                let prediction = predict(
                    &machine,
                    &Link { bytes_per_second, is_encrypted: true },
                    &params,
                    &FixedCosts::guess(1),
                );
                for forecast in prediction.forecasts {
                    assert!((0.0..=1.0).contains(&forecast.loss), "{forecast:?}");
                }
            }
        }
    }
}
