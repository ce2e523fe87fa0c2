// Package security tests what the chart grants and protects: see its tests.
package security
