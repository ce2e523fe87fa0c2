package rescheduling

import (
	"encoding/json"
	"fmt"
	"math"
)

// Strategies are what a configuration says of strategies, in Volcano's form.
type Strategies struct {
	// Under, Over and LowPriorityFirst are as in Plugin.
	Under, Over      map[string]int64
	LowPriorityFirst bool
	// Below is the priority class below whose priority gangs are moved; "" is any.
	Below string
}

// The thresholds of lowNodeUtilization where it says none, in percent of processors,
// memory and pods.
const (
	under = 20
	over  = 50
)

// LowUse is the strategy lowNodeUtilization where nothing is said of it.
func LowUse() Strategies { return Strategies{Under: all(under), Over: all(over)} }

func all(percent int64) map[string]int64 {
	return map[string]int64{"cpu": percent * 10, "memory": percent * 10, "pods": percent * 10}
}

// ParseStrategies reads a list of strategies, each with a name and parameters.
func ParseStrategies(v any) (out Strategies, err error) {
	list, ok := v.([]any)
	if !ok {
		return out, fmt.Errorf("must be a list of strategies")
	}
	for i, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			return out, fmt.Errorf("entry %d must have a name, and may have params", i)
		}
		switch name := fmt.Sprint(m["name"]); name {
		case "offlineOnly": // it is so always: nobody is moved whose owner has not said so
		case "lowPriorityFirst":
			out.LowPriorityFirst = true
		case "lowNodeUtilization":
			if err := out.lowUse(m["params"]); err != nil {
				return out, fmt.Errorf("entry %d: %w", i, err)
			}
		default:
			return out, fmt.Errorf("entry %d has the name %q, must be lowNodeUtilization, lowPriorityFirst or offlineOnly", i, name)
		}
	}
	return out, nil
}

// lowUse reads the parameters of lowNodeUtilization.
func (s *Strategies) lowUse(v any) error {
	low := LowUse()
	s.Under, s.Over = low.Under, low.Over
	if v == nil {
		return nil
	}
	params, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("params must be thresholds, targetThresholds and the like")
	}
	for name, v := range params {
		var err error
		switch name {
		case "thresholds":
			s.Under, err = percents(v)
		case "targetThresholds":
			s.Over, err = percents(v)
		case "nodeFit": // it is so always: nobody is moved who has no other place
			if _, ok := v.(bool); !ok {
				err = fmt.Errorf("must be true or false")
			}
		case "thresholdPriorityClassName":
			var ok bool
			if s.Below, ok = v.(string); !ok {
				err = fmt.Errorf("must be the name of a PriorityClass")
			}
		default:
			err = fmt.Errorf("is not known, must be thresholds, targetThresholds, nodeFit or thresholdPriorityClassName")
		}
		if err != nil {
			return fmt.Errorf("params.%s %w", name, err)
		}
	}
	for name, u := range s.Under {
		if o, ok := s.Over[name]; ok && u > o {
			return fmt.Errorf("params.thresholds.%s must not be above that of targetThresholds", name)
		}
	}
	return nil
}

// percents reads percentages by name of a resource, as thousandths.
func percents(v any) (map[string]int64, error) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return nil, fmt.Errorf("must be percentages by the names of resources")
	}
	out := map[string]int64{}
	for name, v := range m {
		f, err := json.Number(fmt.Sprint(v)).Float64()
		if err != nil || !(f >= 0 && f <= 100) { // not a number is neither
			return nil, fmt.Errorf("has %v for %s, must be from 0 to 100", v, name)
		}
		out[name] = int64(math.Round(f * 10))
	}
	return out, nil
}
