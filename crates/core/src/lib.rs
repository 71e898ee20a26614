//! Every decision of the Bellwire hub, sans-IO.
