// Package validation decodes, defaults and checks a BatchCluster in one way,
// whether it comes as an object or as a file: every mistake with its field.
// It is pure.
package validation
