//! What the two ends of Bellwire share: names, states, objects, limits and problems.
