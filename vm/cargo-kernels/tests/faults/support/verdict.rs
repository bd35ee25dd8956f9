//! What a report says of a kernel.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// One of report.json's `kernels`.
#[derive(Debug)]
pub struct Verdict {
    pub word: String,
    pub reason: String,
    pub kernel: Value,
}

impl Verdict {
    /// Of the kernel at `index` in the reports of a directory.
    pub fn read(reports: &Path, index: usize) -> std::io::Result<Self> {
        let report = fs::read(reports.join("report.json"))?;
        let report: Value = serde_json::from_slice(&report)?;
        let kernel = report["kernels"][index].clone();
        let text = |key: &str| kernel[key].as_str().unwrap_or_else(|| panic!("no {key}: {kernel:#}")).to_owned();
        Ok(Self { word: text("verdict"), reason: text("reason"), kernel })
    }

    /// What is said of a test.
    #[track_caller]
    pub fn test(&self, name: &str) -> &Value {
        let tests = self.kernel["tests"].as_array().unwrap();
        tests.iter().find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}: {tests:#?}"))
    }
}
