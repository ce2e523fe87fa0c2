package main

import (
	"fmt"

	"github.com/go-logr/logr"
	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
)

// nodeLog lets virtual-kubelet's node controller write to our log.
type nodeLog struct{ log logr.Logger }

var _ vklog.Logger = nodeLog{}

func (n nodeLog) Debug(a ...any)            { n.log.V(1).Info(fmt.Sprint(a...)) }
func (n nodeLog) Debugf(f string, a ...any) { n.log.V(1).Info(fmt.Sprintf(f, a...)) }
func (n nodeLog) Info(a ...any)             { n.log.V(1).Info(fmt.Sprint(a...)) }
func (n nodeLog) Infof(f string, a ...any)  { n.log.V(1).Info(fmt.Sprintf(f, a...)) }
func (n nodeLog) Warn(a ...any)             { n.log.Info(fmt.Sprint(a...)) }
func (n nodeLog) Warnf(f string, a ...any)  { n.log.Info(fmt.Sprintf(f, a...)) }
func (n nodeLog) Error(a ...any)            { n.log.Info(fmt.Sprint(a...)) }
func (n nodeLog) Errorf(f string, a ...any) { n.log.Info(fmt.Sprintf(f, a...)) }

// Fatal does not end the process: the library has no cause to decide that.
func (n nodeLog) Fatal(a ...any)            { n.log.Info(fmt.Sprint(a...)) }
func (n nodeLog) Fatalf(f string, a ...any) { n.log.Info(fmt.Sprintf(f, a...)) }

func (n nodeLog) WithField(key string, v any) vklog.Logger {
	return nodeLog{n.log.WithValues(key, fmt.Sprint(v))}
}
func (n nodeLog) WithFields(fields vklog.Fields) vklog.Logger {
	l := n.log
	for k, v := range fields {
		l = l.WithValues(k, fmt.Sprint(v))
	}
	return nodeLog{l}
}
func (n nodeLog) WithError(err error) vklog.Logger {
	if err == nil { // the library attaches the error of calls that worked as well
		return n
	}
	return nodeLog{n.log.WithValues("error", err.Error())}
}
