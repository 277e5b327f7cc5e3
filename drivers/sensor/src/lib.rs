//! What a firmware author links.
