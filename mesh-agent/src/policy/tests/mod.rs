mod oracle;
mod speed;
mod verdicts;
