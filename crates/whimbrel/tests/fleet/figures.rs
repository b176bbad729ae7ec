//! Figures of a control plane that works.

use std::{path::PathBuf, thread, time::Instant};

use tokio::runtime::Builder;

use super::{Fleet, site::PATIENCE};

/// Clients that scrape at a time, and how often each does.
const SCRAPES: (usize, usize) = (100, 5);

#[test]
fn a_hundred_scrape_figures_while_a_machine_moves() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let kubeconfig = fleet.dir().join("kubeconfig.view");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let scrapes = thread::spawn(move || {
        runtime.block_on(async {
            let all: Vec<_> = (0..SCRAPES.0).map(|_| tokio::spawn(scrape(kubeconfig.clone()))).collect();
            for one in all {
                one.await.unwrap();
            }
        });
    });
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    scrapes.join().unwrap();
    let counted = "whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 1";
    let deadline = Instant::now() + PATIENCE;
    while !fleet.kubectl("get --raw /metrics").contains(counted) {
        assert!(Instant::now() < deadline, "{}", fleet.log());
    }
}

async fn scrape(kubeconfig: PathBuf) {
    let client = mirror::connect(&kubeconfig).await.unwrap();
    for _ in 0..SCRAPES.1 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = client.request_text(request).await.unwrap();
        assert!(text.contains("whimbrel_node_ready{node=\"node-a\"} 1"), "{text}");
    }
}
