//! Figures that were published, for orientation: other hardware, and another guest. Hosts of 256 CPUs, 1.5 TB and 200
//! Gb/s; a guest with 128 vCPUs and 300 GB that plays a video; multifd with five channels in S2 and S3.

use crate::tables::Table;

/// What they are, as a sentence.
pub const WHAT: &str = "Published figures of other hypervisors on other hardware, for orientation only: hosts with 256 CPUs, 1.5 TB and 200 Gb/s, a guest with \
                        128 vCPUs and 300 GB that plays a video; S1: 500 MB/s dirtied, 1280 MB/s of bandwidth; S2: 1000 and 5120; S3: 4000 and 5120. \"-\": not \
                        suitable; empty: not published.";

const MODES: [&str; 4] = ["VMware", "postcopy-preempt", "multifd", "generic"];

type Rows = [[&'static str; 3]; 4];

const TABLES: [(&str, Rows); 5] = [
    (
        "total time, s",
        [["380", "117", "222"], ["278", "160", "341"], ["284", "61", "84"], ["294", "153", "-"]],
    ),
    (
        "bandwidth, MB/s",
        [
            ["1140–1144", "2634–3694", "2252–2314"],
            ["700–900", "1000–1200", "1000–1200"],
            ["1350–1370", "5340–5400", "5340–5400"],
            ["1340–1370", "2062–2875", "-"],
        ],
    ),
    (
        "downtime, ms",
        [["unknown (goal 500)", "", ""], ["306", "268", "266"], ["334", "470", "517"], ["384", "631", "-"]],
    ),
    ("video stuck", [["no", "", "2 s"], ["5 s", "", ""], ["no", "3–4 s", "3–4 s"], ["3–4 s", "3–4 s", "-"]]),
    (
        "ping, sent/received",
        [
            ["525/524", "147/147", "508/507"],
            ["355/355", "359/359", "402/402"],
            ["311/310", "88/87", "104/103"],
            ["303/302", "163/163", "-"],
        ],
    ),
];

/// The five tables.
#[must_use]
pub fn tables() -> Vec<Table> {
    let row = |mode: &str, cells: &[&str; 3]| {
        [&[mode][..], cells].concat().into_iter().map(str::to_owned).collect()
    };
    let table = |(title, rows): &(&str, Rows)| Table {
        title: (*title).to_owned(),
        header: [title, "S1", "S2", "S3"].map(str::to_owned).to_vec(),
        rows: MODES.iter().zip(rows).map(|(mode, cells)| row(mode, cells)).collect(),
    };
    TABLES.iter().map(table).collect()
}
