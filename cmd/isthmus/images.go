package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/image"
)

func imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images DIRECTORY",
		Short: "Write the container images that the chart names, as OCI archives",
		Long: "Write an OCI archive for each image that the chart names into a directory, from static programs that\n" +
			"are built (see `make images`). Push them with any tool that reads OCI archives, or import them on each node.",
		Args: cobra.ExactArgs(1),
	}
	var from image.Programs
	cmd.Flags().StringVar(&from.Directory, "programs", "bin", "directory with vnode, podrun, scheduler and controllers")
	cmd.Flags().StringVar(&from.Registry, "registry", "isthmus", "what stands before the names, as image.registry of the chart")
	cmd.Flags().StringVar(&from.Tag, "tag", "", "tag of the images, as image.tag of the chart (default: the chart's appVersion)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if from.Tag == "" {
			var err error
			if from.Tag, err = appVersion(); err != nil {
				return err
			}
		}
		archives, err := from.Write(args[0])
		if err != nil {
			return err
		}
		files := make([]string, 0, len(archives))
		for _, file := range archives {
			files = append(files, file)
		}
		slices.Sort(files)
		for _, file := range files {
			fmt.Fprintln(cmd.OutOrStdout(), file)
		}
		return nil
	}
	return cmd
}

// appVersion is what the chart of this checkout names where no tag is given.
func appVersion() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", fmt.Errorf("find the chart's version: %w (use --tag)", err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "charts", "isthmus", "Chart.yaml"))
	if err != nil {
		return "", fmt.Errorf("find the chart's version: %w (use --tag)", err)
	}
	var chart struct {
		AppVersion string `json:"appVersion"`
	}
	if err := yaml.Unmarshal(raw, &chart); err != nil {
		return "", fmt.Errorf("read Chart.yaml: %w", err)
	}
	return chart.AppVersion, nil
}
