// How classes are told apart.

// A shape for each kind of class, so that none is told by its colour alone.
export const SHAPES = {
  rigid: "rectangle",
  permutation: "round-rectangle",
  monomial: "cut-rectangle",
  diagonal: "rhomboid",
  rotation: "hexagon",
  orthogonal: "ellipse",
  invertible: "barrel",
};

/** A class as a part of the name of its colour. */
export function slug(name) {
  return name.replaceAll(" ", "-");
}
