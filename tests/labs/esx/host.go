package main

import (
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// autostartManager is the one manager that libvirt's esx driver calls and the simulator lacks.
type autostartManager struct{ mo.HostAutoStartManager }

func (manager *autostartManager) ReconfigureAutostart(request *types.ReconfigureAutostart) soap.HasFault {
	if defaults := request.Spec.Defaults; defaults != nil {
		manager.Config.Defaults = defaults
	}
	for _, wanted := range request.Spec.PowerInfo {
		kept := []types.AutoStartPowerInfo{}
		for _, info := range manager.Config.PowerInfo {
			if info.Key != wanted.Key {
				kept = append(kept, info)
			}
		}
		manager.Config.PowerInfo = append(kept, wanted)
	}
	return &methods.ReconfigureAutostartBody{Res: &types.ReconfigureAutostartResponse{}}
}

// complete fills in what every real host says of itself and the simulator does not.
func complete() {
	yes, no := true, false
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		capability := types.HostCapability{}
		if host.Capability != nil {
			capability = *host.Capability
		}
		capability.MaxSupportedVcpus = 8
		capability.ScreenshotSupported = true
		host.Capability = &capability
		manager := &autostartManager{}
		manager.Self = types.ManagedObjectReference{
			Type: "HostAutoStartManager", Value: host.Self.Value + "-autostart",
		}
		manager.Config.Defaults = &types.AutoStartDefaults{
			Enabled: &yes, StartDelay: 120, StopDelay: 120, WaitForHeartbeat: &no, StopAction: "powerOff",
		}
		simulator.Map.Put(manager)
		host.ConfigManager.AutoStartManager = &manager.Self
	}
	for _, entity := range simulator.Map.All("Datastore") {
		store := entity.(*simulator.Datastore)
		store.Host = nil
		for _, host := range simulator.Map.All("HostSystem") {
			store.Host = append(store.Host, types.DatastoreHostMount{
				Key: host.Reference(),
				MountInfo: types.HostMountInfo{
					Path: "/vmfs/volumes/" + store.Name, AccessMode: "readWrite", Mounted: &yes, Accessible: &yes,
				},
			})
		}
	}
	for _, machine := range machines() {
		writeFile(machine)
	}
}

func machines() []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, entity := range simulator.Map.All("VirtualMachine") {
		found = append(found, entity.(*simulator.VirtualMachine))
	}
	return found
}

// localPath turns "[datastore] folder/machine.vmx" into a path on this computer.
func localPath(path string) string {
	var parsed object.DatastorePath
	if !parsed.FromString(path) {
		return ""
	}
	for _, entity := range simulator.Map.All("Datastore") {
		if store := entity.(*simulator.Datastore); store.Name == parsed.Datastore {
			return filepath.Join(store.Info.GetDatastoreInfo().Url, parsed.Path)
		}
	}
	return ""
}

// writeFile gives a machine that the simulator made up the .vmx file that it would have on a real host.
func writeFile(machine *simulator.VirtualMachine) {
	path := localPath(machine.Config.Files.VmPathName)
	if path == "" {
		return
	}
	if found, err := os.Stat(path); err == nil && found.Size() > 0 {
		return
	}
	var text strings.Builder
	put := func(key, value string) { fmt.Fprintf(&text, "%s = \"%s\"\n", key, value) }
	put(".encoding", "UTF-8")
	put("config.version", "8")
	put("virtualHW.version", strings.TrimPrefix(machine.Config.Version, "vmx-"))
	put("guestOS", "other-64")
	put("uuid.bios", fileUUID(machine.Config.Uuid))
	put("displayName", machine.Name)
	put("memsize", strconv.Itoa(int(machine.Config.Hardware.MemoryMB)))
	put("numvcpus", strconv.Itoa(int(machine.Config.Hardware.NumCPU)))
	put("scsi0.present", "true")
	put("scsi0.virtualDev", "lsilogic")
	disks, _ := filepath.Glob(filepath.Dir(path) + "/*.vmdk")
	unit := 0
	for _, disk := range disks {
		if strings.HasSuffix(disk, "-flat.vmdk") {
			continue
		}
		put(fmt.Sprintf("scsi0:%d.present", unit), "true")
		put(fmt.Sprintf("scsi0:%d.deviceType", unit), "scsi-hardDisk")
		put(fmt.Sprintf("scsi0:%d.fileName", unit), filepath.Base(disk))
		unit++
	}
	put("ethernet0.present", "true")
	put("ethernet0.virtualDev", "e1000")
	put("ethernet0.networkName", "VM Network")
	put("ethernet0.connectionType", "bridged")
	put("ethernet0.addressType", "vpx")
	put("ethernet0.generatedAddress", "00:50:56:aa:bb:01")
	if err := os.WriteFile(path, []byte(text.String()), 0600); err != nil {
		log.Print(err)
	}
}

// fileUUID writes a UUID as .vmx files do.
func fileUUID(uuid string) string {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return ""
	}
	return fmt.Sprintf("% x-% x", raw[:8], raw[8:])
}

// writeSizes writes a machine's memory and processors, which calls may have changed, into its .vmx file.
func writeSizes(path string) {
	file := localPath(path)
	for _, machine := range machines() {
		if localPath(machine.Config.Files.VmPathName) != file {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return
		}
		sizes := map[string]int64{
			"memsize":  int64(machine.Config.Hardware.MemoryMB),
			"numvcpus": int64(machine.Config.Hardware.NumCPU),
		}
		if allocation := machine.Config.MemoryAllocation; allocation != nil && allocation.Limit != nil {
			sizes["sched.mem.max"] = *allocation.Limit
		}
		var lines []string
		for _, line := range strings.SplitAfter(string(content), "\n") {
			key := strings.ToLower(strings.TrimSpace(strings.SplitN(line, "=", 2)[0]))
			if _, known := sizes[key]; !known {
				lines = append(lines, line)
			}
		}
		for key, size := range sizes {
			lines = append(lines, fmt.Sprintf("%s = \"%d\"\n", key, size))
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0600); err != nil {
			log.Print(err)
		}
		return
	}
}

// prepareRegistration makes the files beside a .vmx file that the simulator expects to find there.
func prepareRegistration(path string) {
	file := localPath(path)
	if file == "" {
		return
	}
	folder := filepath.Dir(file)
	stem := strings.TrimSuffix(filepath.Base(file), ".vmx")
	for _, name := range []string{filepath.Base(folder) + ".nvram", stem + ".nvram", "vmware.log"} {
		if made, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE, 0600); err == nil {
			made.Close()
		}
	}
}

// goBack gives a machine the sizes and the power state of a snapshot, which the simulator only makes the current one.
func goBack(id string) {
	self := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: id}
	snapshot, found := simulator.Map.Get(self).(*simulator.VirtualMachineSnapshot)
	if !found {
		return
	}
	machine := simulator.Map.Get(snapshot.Vm).(*simulator.VirtualMachine)
	before, hardware := snapshot.Config.Hardware, &machine.Config.Hardware
	hardware.MemoryMB, machine.Summary.Config.MemorySizeMB = before.MemoryMB, before.MemoryMB
	hardware.NumCPU, machine.Summary.Config.NumCpu = before.NumCPU, before.NumCPU
	state := stateIn(machine.Snapshot.RootSnapshotList, self)
	machine.Runtime.PowerState, machine.Summary.Runtime.PowerState = state, state
}

// leave makes a machine whose current snapshot is a root, about to be removed, one without; the simulator panics at that.
func leave(id string) {
	for _, machine := range machines() {
		info := machine.Snapshot
		if info == nil || info.CurrentSnapshot == nil || info.CurrentSnapshot.Value != id {
			continue
		}
		for _, root := range info.RootSnapshotList {
			if root.Snapshot.Value == id {
				info.CurrentSnapshot = nil
			}
		}
	}
}

func stateIn(trees []types.VirtualMachineSnapshotTree, self types.ManagedObjectReference) types.VirtualMachinePowerState {
	for _, tree := range trees {
		if tree.Snapshot == self {
			return tree.State
		}
		if state := stateIn(tree.ChildSnapshotList, self); state != "" {
			return state
		}
	}
	return ""
}

// tellAddress lets a machine's guest have an address, as VMware Tools tell it.
func tellAddress(name, mac, ip string) {
	for _, machine := range machines() {
		if machine.Name == name {
			address := types.NetIpConfigInfoIpAddress{IpAddress: ip, PrefixLength: 24, State: "preferred"}
			config := &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{address}}
			card := types.GuestNicInfo{Network: "VM Network", MacAddress: mac, Connected: true, IpConfig: config}
			machine.Guest.Net = []types.GuestNicInfo{card}
		}
	}
}

// escape is how .vmx files write the characters that have a meaning there: |22 for a quote.
var escape = regexp.MustCompile(`\|[0-9A-Fa-f]{2}`)

func unescape(code string) string {
	raw, _ := hex.DecodeString(code[1:])
	return string(raw)
}

// applyFile gives a machine that was registered from a .vmx file what the file says.
func applyFile(path string) {
	content, err := os.ReadFile(localPath(path))
	if err != nil {
		return
	}
	settings := map[string]string{}
	for _, line := range strings.Split(string(content), "\n") {
		if parts := strings.SplitN(line, "=", 2); len(parts) == 2 {
			value := strings.Trim(strings.TrimSpace(parts[1]), `"`)
			settings[strings.ToLower(strings.TrimSpace(parts[0]))] = escape.ReplaceAllStringFunc(value, unescape)
		}
	}
	for _, machine := range machines() {
		if machine.Config.Files.VmPathName != path {
			continue
		}
		config, summary := machine.Config, &machine.Summary.Config
		if digits := strings.NewReplacer(" ", "", "-", "").Replace(settings["uuid.bios"]); len(digits) == 32 {
			uuid := strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
			config.Uuid, summary.Uuid = uuid, uuid
		}
		if size, err := strconv.Atoi(settings["memsize"]); err == nil {
			config.Hardware.MemoryMB, summary.MemorySizeMB = int32(size), int32(size)
		}
		if count, err := strconv.Atoi(settings["numvcpus"]); err == nil {
			config.Hardware.NumCPU, summary.NumCpu = int32(count), int32(count)
		}
		if name := settings["displayname"]; name != "" {
			machine.Name, config.Name, summary.Name = name, name, name
		}
	}
}
