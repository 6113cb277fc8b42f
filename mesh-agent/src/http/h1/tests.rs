mod bodies;
mod edits;
mod heads;
mod splits;
