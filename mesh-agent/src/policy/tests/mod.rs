mod oracle;
mod requests;
mod speed;
mod verdicts;
