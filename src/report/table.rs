//! The table in the terminal.

use std::fmt::Write;

use crate::deploy::Deployment;
use crate::hardware::Cost;

/// Accuracy, mismatches, compression and cost, as text.
pub fn table(deployment: &Deployment) -> String {
    let mut out = String::new();
    let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2} %"));
    let count = |value: Option<usize>| value.map_or("-".into(), |value: usize| value.to_string());
    let Deployment {
        accuracy,
        mismatches,
        compression,
        ..
    } = deployment;
    let mut row = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:<44}{value:>14}");
    };
    row(
        &format!("{} on {}", deployment.network, deployment.hardware),
        format!("{} images", deployment.images),
    );
    row("accuracy, float before quantization", percent(accuracy.float));
    row("accuracy, fake-quant", percent(accuracy.fake_quant));
    row("accuracy, integer reference", percent(Some(accuracy.integer)));
    row("accuracy, macro model", percent(Some(accuracy.macro_model)));
    row(
        "fake-quant vs integer, predictions that differ",
        count(mismatches.fake_quant_vs_integer_predictions),
    );
    row(
        "integer vs macro, logits that differ",
        count(Some(mismatches.integer_vs_macro_logits)),
    );
    row(
        "groups that are zero",
        percent(Some(100.0 * compression.group_sparsity)),
    );
    row("weights, dense", kib(compression.weight_bits_dense));
    row("weights, stored", kib(compression.weight_bits_stored));
    row("index codes", kib(compression.index_bits));
    row("compression at the same bits", format!("{:.2} x", compression.ratio));
    row(
        "compression against 32 bits",
        format!("{:.2} x", compression.ratio_fp32),
    );
    let _ = writeln!(out, "\n  {:<30}{:>14}{:>14}", "per frame", "with reload", "without");
    let (with, without) = (&deployment.cost, &deployment.cost_without_reload);
    let mut pair = |name: &str, value: &dyn Fn(&Cost) -> String| {
        let _ = writeln!(out, "  {name:<30}{:>14}{:>14}", value(with), value(without));
    };
    pair("cycles", &|cost| cost.cycles.to_string());
    pair("frames per second", &|cost| format!("{:.0}", cost.fps));
    pair("energy", &|cost| format!("{:.2} uJ", cost.energy_uj));
    pair("TOPS/W, dense-equivalent", &|cost| {
        format!("{:.2}", cost.tops_per_watt_dense_equivalent)
    });
    pair("TOPS/W, executed", &|cost| {
        format!("{:.2}", cost.tops_per_watt_executed)
    });
    pair("utilization", &|cost| format!("{:.1} %", 100.0 * cost.utilization));
    pair("speed-up over dense", &|cost| format!("{:.2} x", cost.speedup_vs_dense));
    for (index, (name, _)) in with.energy_breakdown_uj.components().iter().enumerate() {
        pair(&format!("  {name}"), &|cost| {
            format!("{:.3} uJ", cost.energy_breakdown_uj.components()[index].1)
        });
    }
    out
}

fn kib(bits: u64) -> String {
    format!("{:.1} KiB", bits as f64 / 8192.0)
}
