package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// Classes of volumes: those that are there, and those that are made.
const (
	shelved = "killed-shelved"
	custom  = "killed-custom"
)

// shop is volumes and their claims, whose controller and provisioner a stage plays.
type shop struct {
	volumes map[string]*corev1.PersistentVolume
	claims  []corev1.PersistentVolumeClaim
	// owners are the claims that volumes were given to first.
	owners map[string]types.UID
}

// openShop makes two nodes, with two volumes each that are there, and the two classes.
func openShop(t *testing.T, s *stage) {
	s.shop = &shop{owners: map[string]types.UID{}}
	t.Cleanup(func() { s.closeShop(t) })
	for class, by := range map[string]string{shelved: "", custom: "killed.example.com"} {
		c := schedtest.StorageClass(class, by)
		c.UID = ""
		s.make(t, c)
	}
	for _, host := range []string{"na", "nb"} {
		s.node(t, host, 0, 0)
		for i := range 2 {
			if err := s.plane.Client.Create(t.Context(), s.volume(fmt.Sprintf("%s-%d", host, i), shelved, host)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (s *stage) volume(name, class, host string) *corev1.PersistentVolume {
	v := schedtest.LocalVolume(s.namespace+"-"+name, class, host, "1Gi")
	v.UID, v.Status, v.Labels = "", corev1.PersistentVolumeStatus{}, map[string]string{"test": s.namespace}
	return v
}

// closeShop takes the volumes away, to which no controller sees.
func (s *stage) closeShop(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	var all corev1.PersistentVolumeList
	if err := s.plane.Client.List(ctx, &all, client.MatchingLabels{"test": s.namespace}); err != nil {
		t.Error(err)
	}
	for i := range all.Items {
		v := &all.Items[i]
		err := s.plane.Client.Delete(ctx, v)
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := errors.Join(client.IgnoreNotFound(err), client.IgnoreNotFound(s.plane.Client.Patch(ctx, v, patch))); err != nil {
			t.Error(err)
		}
	}
}

// claim is the claim of a member for its volume.
func (s *stage) claim(name, class string) *corev1.PersistentVolumeClaim {
	c := schedtest.VolumeClaim(name, class, "1Gi")
	c.Namespace, c.UID = s.namespace, ""
	return c
}

// visit looks at the volumes and claims once. It returns false when that is to be done
// again.
func (s *stage) visit(ctx context.Context) bool {
	if s.shop == nil {
		return true
	}
	var asked corev1.PersistentVolumeClaimList
	var there corev1.PersistentVolumeList
	if s.plane.Client.List(ctx, &asked, client.InNamespace(s.namespace)) != nil || s.plane.Client.List(ctx, &there, client.MatchingLabels{"test": s.namespace}) != nil {
		return false
	}
	s.shop.claims, s.shop.volumes = asked.Items, map[string]*corev1.PersistentVolume{}
	for i := range there.Items {
		s.shop.volumes[there.Items[i].Name] = &there.Items[i]
	}
	return true
}

// volumesApart says which volume was given to two claims, and which member was bound
// before its volume, or where it is not.
func (s *stage) volumesApart() error {
	if s.shop == nil {
		return nil
	}
	for name, v := range s.shop.volumes {
		ref := v.Spec.ClaimRef
		if ref == nil {
			if s.shop.owners[name] != "" {
				return fmt.Errorf("volume %s was given to a claim and is nobody's now", name)
			}
			continue
		}
		if first := s.shop.owners[name]; first != "" && first != ref.UID {
			return fmt.Errorf("volume %s was given to claim %s after another had it", name, ref.Name)
		}
		s.shop.owners[name] = ref.UID
	}
	nodes := map[string]string{}
	for i := range s.pods {
		nodes[s.pods[i].Name] = s.pods[i].Spec.NodeName
	}
	has := map[string]string{}
	for i := range s.shop.claims {
		c := &s.shop.claims[i]
		if v := c.Spec.VolumeName; v != "" {
			if has[v] != "" {
				return fmt.Errorf("claims %s and %s both have volume %s", has[v], c.Name, v)
			}
			has[v] = c.Name
		}
		if node := nodes[c.Name]; node != "" && s.hostOf(c) != node {
			return fmt.Errorf("pod %s was bound to %s, its volume %q is on %q", c.Name, node, c.Spec.VolumeName, s.hostOf(c))
		}
	}
	return nil
}

// hostOf is the node that reaches the volume of a claim, "" without one.
func (s *stage) hostOf(c *corev1.PersistentVolumeClaim) string {
	v := s.shop.volumes[c.Spec.VolumeName]
	if v == nil {
		return ""
	}
	return v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
}

// serve is what the controller of volumes and the provisioner do: who was given a volume
// has it, and who asked for one gets it made. What fails is done in another turn.
func (s *stage) serve(ctx context.Context) {
	if s.shop == nil {
		return
	}
	given := map[types.UID]*corev1.PersistentVolume{}
	for _, v := range s.shop.volumes {
		switch {
		case v.Spec.ClaimRef != nil:
			given[v.Spec.ClaimRef.UID] = v
		case v.Status.Phase != corev1.VolumeAvailable:
			v.Status.Phase = corev1.VolumeAvailable
			_ = s.plane.Client.Status().Update(ctx, v)
		}
	}
	for i := range s.shop.claims {
		c := &s.shop.claims[i]
		v := given[c.UID]
		switch host := c.Annotations[claims.SelectedNode]; {
		case v == nil && host != "":
			v = s.volume("for-"+c.Name, custom, host)
			v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
			_ = s.plane.Client.Create(ctx, v)
		case v == nil:
		case c.Spec.VolumeName == "":
			c.Spec.VolumeName = v.Name
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, "pv.kubernetes.io/bind-completed", "yes")
			_ = s.plane.Client.Update(ctx, c)
		case c.Status.Phase != corev1.ClaimBound:
			c.Status.Phase, c.Status.Capacity, c.Status.AccessModes = corev1.ClaimBound, v.Spec.Capacity, v.Spec.AccessModes
			_ = s.plane.Client.Status().Update(ctx, c)
		case v.Status.Phase != corev1.VolumeBound:
			v.Status.Phase = corev1.VolumeBound
			_ = s.plane.Client.Status().Update(ctx, v)
		}
	}
}

// served says whether each member of some gangs has its volume, and no volume is anybody
// else's.
func (s *stage) served(names ...string) string {
	want := 0
	for _, n := range names {
		if s.parties[n] != nil {
			want += len(s.parties[n].volumes)
		}
	}
	got := 0
	for i := range s.shop.claims {
		if s.hostOf(&s.shop.claims[i]) == "" {
			return fmt.Sprintf("claim %s has no volume", s.shop.claims[i].Name)
		}
		got++
	}
	owned := 0
	for name, v := range s.shop.volumes {
		if v.Spec.ClaimRef != nil || strings.Contains(name, "-for-") {
			owned++
		}
	}
	if got != want || owned != want {
		return fmt.Sprintf("%d claims have volumes and %d volumes are somebody's, want %d", got, owned, want)
	}
	return ""
}

// volumeScenes are those in which members have volumes. Those that are there are just
// enough for both gangs, so that one that was given twice or to nobody would be missed.
func volumeScenes() []act {
	return []act{{
		name: "volumes", kinds: append(append(twice(gives, asks), binds, binds), binds, binds),
		set: openShop,
		turns: func(t *testing.T, s *stage) {
			s.join(t, &party{name: "c", size: 4, volumes: []string{shelved, shelved, custom, custom}})
		},
		between: func(t *testing.T, s *stage) {
			s.join(t, &party{name: "d", size: 3, volumes: []string{shelved, shelved, custom}})
		},
		ends: func(s *stage) string {
			return firstOf(s.placed("c", "d"), s.wentHalf("c", 0), s.wentHalf("d", 0), s.served("c", "d"))
		},
	}}
}
