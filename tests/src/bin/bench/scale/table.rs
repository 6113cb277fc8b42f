//! All sizes as one table, a column each.

use comfy_table::{Table, presets};

use super::{Cost, Size};

pub(super) fn text(sizes: &[Size]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let header = sizes.iter().map(|size| format!("{} pods", size.pods));
    table.set_header([String::new()].into_iter().chain(header));
    let mut row = |what: &str, of: &dyn Fn(&Size) -> String| {
        table.add_row([what.to_owned()].into_iter().chain(sizes.iter().map(of)));
    };
    row("namespaces, Services, policies", &|s| {
        format!("{}, {}, {}", s.namespaces, s.services, s.policies)
    });
    row("directory, MB", &|s| format!("{:.1}", s.megabytes));
    row("first snapshot, s (CPU s)", &|s| {
        let Cost { cpu_ms, wall_ms } = s.first;
        format!("{:.2} ({:.2})", wall_ms / 1e3, cpu_ms / 1e3)
    });
    let kinds = sizes.first().map_or(0, |size| size.changes.len());
    for kind in 0..kinds {
        let what = sizes[0].changes[kind].what;
        row(
            &format!("one {what} changed: CPU ms (ms to effect)"),
            &|s| pair(s.changes[kind].cost),
        );
    }
    row("explain from a pod: CPU ms (ms)", &|s| pair(s.explain_pod));
    row("explain from an identity: CPU ms (ms)", &|s| {
        pair(s.explain_identity)
    });
    row("resident a pod, KiB (after the changes)", &|s| {
        format!("{:.2} ({:.2})", s.kib_per_pod, s.kib_per_pod_after)
    });
    row("CPU when nothing happens, ms a second", &|s| {
        format!("{:.1}", s.idle_cpu_ms_per_s)
    });
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "Load average {}. Where others use the machine, CPU is what to go by.\n\n{table}\n",
        load.trim()
    )
}

fn pair(cost: Cost) -> String {
    format!("{:.1} ({:.0})", cost.cpu_ms, cost.wall_ms)
}
